"""A metric family is a value: a name, a sentence, and samples by label."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric

Labels = Mapping[str, str]


class Bucketed(Protocol):
    """A histogram counts the values up to each bound, and those above all bounds."""

    @property
    def bounds(self) -> tuple[float, ...]: ...

    @property
    def counts(self) -> tuple[int, ...]: ...

    @property
    def total(self) -> float: ...


def gauge(
    name: str, text: str, samples: Sequence[tuple[Labels, float]]
) -> GaugeMetricFamily:
    """Makes a family that goes up and down; all samples have the same label names."""
    family = GaugeMetricFamily(name, text, labels=_names(samples))
    _fill(family, samples)
    return family


def counter(
    name: str, text: str, samples: Sequence[tuple[Labels, float]]
) -> CounterMetricFamily:
    """Makes a family that only grows; `_total` is added to its name."""
    family = CounterMetricFamily(name, text, labels=_names(samples))
    _fill(family, samples)
    return family


def histogram(
    name: str, text: str, samples: Sequence[tuple[Labels, Bucketed]]
) -> HistogramMetricFamily:
    """Makes a family that counts values by size."""
    family = HistogramMetricFamily(name, text, labels=_names(samples))
    for labels, buckets in samples:
        bounds = [*(str(bound) for bound in buckets.bounds), "+Inf"]
        counts = [float(count) for count in accumulate(buckets.counts)]
        family.add_metric(
            list(labels.values()), list(zip(bounds, counts, strict=True)), buckets.total
        )
    return family


def _fill(
    family: GaugeMetricFamily | CounterMetricFamily,
    samples: Sequence[tuple[Labels, float]],
) -> None:
    for labels, value in samples:
        family.add_metric(list(labels.values()), float(value))


def _names(samples: Sequence[tuple[Labels, object]]) -> list[str]:
    return list(samples[0][0]) if samples else []


__all__ = ["Bucketed", "Labels", "Metric", "counter", "gauge", "histogram"]
