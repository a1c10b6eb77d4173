"""A registry of this server's own, which reads a frozen load at every scrape."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.registry import Collector

from mell_jax.engine.frames import EngineLoad
from mell_jax.frontend.meter import Measured
from mell_jax.serving.metrics.families import Metric, counter, gauge
from mell_jax.serving.metrics.fleet import fleet_metrics
from mell_jax.serving.metrics.standard import standard

REFUSALS = ("overloaded", "draining")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where a scrape reads; called in the event loop, must not wait."""

    load: Callable[[], EngineLoad]
    measured: Callable[[], Mapping[str, Measured]]  # of every model
    refused: Callable[[], Mapping[str, int]]  # requests turned away, by reason
    is_serving: Callable[[], bool]


def make_registry(sources: Sources, *, shows_vllm_names: bool) -> CollectorRegistry:
    """Metrics of one server and its process.

    Args:
      shows_vllm_names: whether what has a name in vLLM is shown by that name, too.
    """
    registry = CollectorRegistry(auto_describe=False)
    prefixes = ("mell", "vllm") if shows_vllm_names else ("mell",)
    registry.register(_Scrape(sources, prefixes=prefixes))
    ProcessCollector(registry=registry)
    return registry


@final
class _Scrape(Collector):
    def __init__(self, sources: Sources, *, prefixes: tuple[str, ...]) -> None:
        self._sources = sources
        self._prefixes = prefixes

    def collect(self) -> Iterator[Metric]:
        load, measured = self._sources.load(), self._sources.measured()
        for prefix in self._prefixes:
            yield from standard(prefix, load=load, measured=measured)
        yield from self._own(load)
        if load.fleet is not None:
            yield from fleet_metrics(load.fleet)

    def _own(self, load: EngineLoad) -> Iterator[Metric]:
        yield gauge(
            "mell:serving",
            "1 while requests are taken.",
            [({}, self._sources.is_serving())],
        )
        refused = self._sources.refused()
        yield counter(
            "mell:admission_rejected",
            "Requests that were turned away.",
            [({"reason": reason}, refused.get(reason, 0)) for reason in REFUSALS],
        )
        yield counter("mell:steps", "Steps of all instances.", [({}, load.steps)])
        yield counter(
            "mell:compilations",
            "Programs compiled; constant once requests are taken.",
            [({}, load.compilations)],
        )
