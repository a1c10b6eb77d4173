"""A scrape holds the state of one moment and writes it down."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from mell_jax.engine.frames import EngineLoad
from mell_jax.frontend.meter import ModelFigures
from mell_jax.serving.metrics.families import Metric, counter, gauge, histogram
from mell_jax.serving.metrics.fleet import fleet_metrics
from mell_jax.serving.metrics.standard import standard

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""Not OpenMetrics: for that the library writes colons in names as underscores."""
REFUSALS = ("overloaded", "queue_full", "tenant_quota", "draining")


@dataclass(frozen=True, kw_only=True)
class Scrape(Collector):
    """A scrape is taken in the event loop and can be written down on any thread.

    Attributes:
      measured: of every model.
      refused: requests turned away, by reason.
      shows_vllm_names: whether what has a name in vLLM is shown by that name, too.
      pid: the process whose memory and time are shown; None for this one.
    """

    load: EngineLoad
    measured: Mapping[str, ModelFigures]
    refused: Mapping[str, int]
    is_serving: bool
    shows_vllm_names: bool = False
    pid: int | None = None

    def text(self) -> bytes:
        """Returns the metrics in Prometheus' plain text format."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        prefixes = ("mell", "vllm") if self.shows_vllm_names else ("mell",)
        for prefix in prefixes:
            yield from standard(prefix, load=self.load, measured=self.measured)
        yield from self._own()
        if self.load.fleet is not None:
            yield from fleet_metrics(self.load.fleet)
        pid = "self" if self.pid is None else self.pid
        yield from ProcessCollector(pid=lambda: pid, registry=None).collect()

    def _own(self) -> Iterator[Metric]:
        yield gauge(
            "mell:serving", "1 while requests are taken.", [({}, self.is_serving)]
        )
        yield counter(
            "mell:admission_rejected",
            "Requests that were turned away.",
            [({"reason": reason}, self.refused.get(reason, 0)) for reason in REFUSALS],
        )
        yield counter("mell:steps", "Steps of all instances.", [({}, self.load.steps)])
        yield histogram(
            "mell:step_seconds",
            "Time on the engine's thread: plan, launch, wait and land of each step of "
            "an instance, emit of each frame.",
            [
                ({"phase": phase}, seconds)
                for phase, seconds in (self.load.phases or {}).items()
            ],
        )
        yield counter(
            "mell:compilations",
            "Programs compiled; constant once requests are taken.",
            [({}, self.load.compilations)],
        )
        yield counter(
            "mell:invariant_violations",
            "Pages found in use while no request was there; any is a bug.",
            [({}, self.load.invariant_violations)],
        )
