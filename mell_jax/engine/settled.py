"""The choices that an operator left open, settled by one pure function."""

from dataclasses import dataclass

import jax.numpy as jnp

from mell_jax.engine.config import EngineConfig
from mell_jax.models.config import ModelConfig
from mell_jax.pallas_kernels.attention.backends import (
    Call,
    KernelTarget,
    choose_backend,
)
from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.worker.cache_layout import lay_out
from mell_jax.worker.layout import Bucket
from mell_jax.worker.pool import PAGE_TOKENS, pool_head


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledConfig:
    """An `EngineConfig` is settled: nothing is open but the size of the KV pool."""

    dtype: jnp.dtype  # of the weights and what is computed with them
    kv_dtype: jnp.dtype
    max_model_len: int
    max_rows: int
    token_budget: int
    attention_backend: str
    cache: CacheSpec
    decode_rows: tuple[int, ...]  # none: decodes compute as all steps do
    mixed_tokens: tuple[int, ...]

    @property
    def max_pages(self) -> int:
        """Returns the pages of the longest sequence."""
        return self.cache.pages(self.max_model_len)

    def buckets(self) -> list[Bucket]:
        """Returns the shapes to compile."""
        decode = [
            self._bucket(rows, rows=rows, is_decode=True) for rows in self.decode_rows
        ]
        mixed = [
            self._bucket(tokens, rows=self.max_rows, is_decode=False)
            for tokens in self.mixed_tokens
        ]
        return decode + mixed

    def _bucket(self, tokens: int, *, rows: int, is_decode: bool) -> Bucket:
        return Bucket(
            tokens=tokens,
            rows=rows,
            pages=self.max_pages,
            is_decode=is_decode,
            groups=self.cache.num_groups,
        )


def settle(
    config: EngineConfig,
    *,
    model: ModelConfig,
    platform: str,
    capacity_pages: int,
    device_kind: str = "",
) -> SettledConfig:
    """Chooses what `config` leaves open for a model on a platform.

    A CPU gets float32 and few shapes, since compiling is what it is slow at and a
    padding row costs it little; other platforms get bfloat16 and finer shapes. The KV
    of a CPU is float32 whatever its weights are, and bfloat16 weights get two rows at
    least: XLA multiplies one row by them ten times as slowly.

    Args:
      capacity_pages: the pages that the largest possible KV pool holds; they bound
        the context when the operator did not choose one.
      device_kind: the name that jax gives the device, such as "NVIDIA H200".

    Raises:
      ValueError: choices that contradict each other or the model.
    """
    is_cpu = platform == "cpu"
    dtype, kv_dtype = choose_dtypes(config, platform=platform)
    max_rows = config.max_rows or (64 if is_cpu else 256)
    if config.deterministic and not is_cpu:
        raise ValueError(
            f"deterministic is for a CPU so far, got a {platform}: whether products of "
            "matrices there are the same wherever a row stands was not tried"
        )
    usual = 512 if is_cpu else 2048
    least = max_rows if config.deterministic else max(max_rows, usual)
    token_budget = config.token_budget or least
    if not (max_rows <= token_budget):
        raise ValueError(
            f"token_budget ({token_budget}) must be at least max_rows ({max_rows}), so "
            "that all rows can decode in one step"
        )
    context = model.max_position_embeddings
    cache = lay_out(model).spec(page_tokens=PAGE_TOKENS, token_budget=token_budget)
    reach = cache.reach(capacity_pages, most=cache.pages(context))
    capacity_tokens = reach * PAGE_TOKENS
    if not (capacity_tokens >= 2):
        raise ValueError(
            f"the KV pool would hold {capacity_tokens} tokens: give more kv_pages "
            "(page 0 is scratch), or free memory"
        )
    max_model_len = config.max_model_len or min(context, capacity_tokens)
    if not (2 <= max_model_len <= context):
        raise ValueError(
            f"max_model_len must be from 2 to the model's context of {context} tokens, "
            f"got {max_model_len}"
        )
    ratio = 4 if is_cpu else 2
    fewest = min(2, max_rows) if is_cpu and dtype == "bfloat16" else 1
    decode_rows = config.decode_rows or _ladder(fewest, max_rows, ratio=ratio)
    backend = _attention_backend(
        config,
        model=model,
        dtype=dtype,
        kv_dtype=kv_dtype,
        target=KernelTarget(platform=platform, device_kind=device_kind),
        table_entries=max_rows * -(-max_model_len // PAGE_TOKENS),
    )
    return SettledConfig(
        dtype=jnp.dtype(dtype),
        kv_dtype=jnp.dtype(kv_dtype),
        max_model_len=max_model_len,
        max_rows=max_rows,
        token_budget=token_budget,
        attention_backend=backend,
        cache=cache,
        decode_rows=()
        if config.deterministic
        else tuple(
            sorted({r for r in decode_rows if fewest <= r < max_rows} | {max_rows})
        ),
        mixed_tokens=(token_budget,)
        if config.deterministic
        else _ladder(min(64, token_budget), token_budget, ratio=8),
    )


def choose_dtypes(config: EngineConfig, *, platform: str) -> tuple[str, str]:
    """Returns the type of the weights, and that of keys and values."""
    best = "float32" if platform == "cpu" else "bfloat16"
    dtype = best if config.dtype == "auto" else config.dtype
    return dtype, "float32" if platform == "cpu" else dtype


def _attention_backend(
    config: EngineConfig,
    *,
    model: ModelConfig,
    dtype: str,
    kv_dtype: str,
    target: KernelTarget,
    table_entries: int,
) -> str:
    """Returns the name of the attention body that all steps of an engine use."""
    wanted = None if config.attention_backend == "auto" else config.attention_backend
    if config.deterministic:
        wanted = "invariant"
    call = Call(
        q_dtype=dtype,
        kv_dtype=kv_dtype,
        is_quantized=False,
        head=pool_head(model, platform=target.platform),
        group=max(a.num_heads // a.num_kv_heads for a in model.attentions),
        kv_heads=model.num_kv_heads,
        page_tokens=PAGE_TOKENS,
        pool_bytes=0,
        table_entries=table_entries,
        decode=False,
    )
    return choose_backend(wanted, target=target, call=call)


def _ladder(first: int, last: int, *, ratio: int) -> tuple[int, ...]:
    """Returns first, first * ratio, ... and last: (1, 4, 16, 64) for 1 to 64 by 4."""
    sizes = []
    size = first
    while size < last:
        sizes.append(size)
        size *= ratio
    return (*sizes, last)
