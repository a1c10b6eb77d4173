"""Prometheus reads these metrics at `/metrics`; every scrape makes them anew.

    EngineLoad (frozen) ----.
    Measured per model -----+--> Scrape --> standard, fleet (pure) --> text

`standard` has the names that dashboards for vLLM know, with the prefix `mell`, and once
more with `vllm` where that is asked for; `fleet` has what only a fleet has. Labels are
names of models, numbers of devices and words of this code: what a client sends is
never one.
"""

from mell_jax.serving.metrics.scrape import CONTENT_TYPE, Scrape

__all__ = ["CONTENT_TYPE", "Scrape"]
