"""Puts the layers of a model into groups, as `scheduler.cache_layout` chooses them."""

from mell_jax.models.config import ModelConfig
from mell_jax.scheduler import cache_layout
from mell_jax.scheduler.cache_layout import CacheLayout


def lay_out(config: ModelConfig) -> CacheLayout:
    """Returns the layout that takes least memory for a sequence of the full context."""
    windows = [attention.window for attention in config.attentions]
    return cache_layout.lay_out(windows, context=config.max_position_embeddings)
