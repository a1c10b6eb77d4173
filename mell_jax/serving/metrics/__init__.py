"""What Prometheus reads at `/metrics`, made anew at every scrape.

    EngineLoad (frozen) ----.
    Measured per model -----+--> standard, fleet (pure) --> registry --> text

`standard` has the names that dashboards for vLLM know, with the prefix `mell`, and once
more with `vllm` where that is asked for; `fleet` has what only a fleet has. Labels are
names of models, numbers of devices and words of this code: what a client sends is
never one.
"""

from mell_jax.serving.metrics.registry import Sources, make_registry

__all__ = ["Sources", "make_registry"]
