"""A profile says what links and instances can do; it is measured once, at the start.

    link      16 pages gathered, carried and scattered, from each group to each other
    prefill   a step of a full batch that decodes, and the same with a chunk of prompt

The planner of moves divides these numbers between the moves of an epoch.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import jax
import numpy as np
from absl import logging

from mell_jax.engine.fleet import page_transfer
from mell_jax.engine.fleet.transport import Transport
from mell_jax.scheduler.ids import DeviceGroupId, ModelId, Pages
from mell_jax.scheduler.pages import SCRATCH_PAGE
from mell_jax.scheduler.transfer import LinkId
from mell_jax.worker.device import DeviceWorker
from mell_jax.worker.timing import Timing, time_steps

Pair = tuple[DeviceGroupId, DeviceGroupId]
Post = tuple[DeviceGroupId, ModelId]
"""An instance of a model on a device group, whether it is open or not."""
PREFILL_SHARE = 0.1
"""Of the time that an instance decodes, what prefill for moves may add to it."""
PAIRS_PER_KIND = 8
"""Pairs of one kind that are measured; the others count as the slowest of them."""
REPEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The profile holds capacities of a fleet.

    A link from one device to another is as fast as it was measured; all that leaves or
    enters a device together is as fast as the fastest of its links.
    """

    bytes_per_s: Mapping[Pair, float]
    prefill_tokens_per_s: Mapping[Post, float]  # beside a full batch that decodes

    @classmethod
    def unlimited(
        cls, devices: Sequence[DeviceGroupId], *, models: Sequence[ModelId]
    ) -> Self:
        """Returns a profile of links and instances that nothing slows down."""
        return cls(
            bytes_per_s={(a, b): math.inf for a in devices for b in devices if a != b},
            prefill_tokens_per_s={(d, m): math.inf for d in devices for m in models},
        )

    @classmethod
    def of_one(cls, device: DeviceGroupId, *, model: ModelId) -> Self:
        """Returns the profile of a fleet of one: there is nowhere to move to."""
        return cls(bytes_per_s={}, prefill_tokens_per_s={(device, model): 0.0})

    @classmethod
    def joined(cls, profiles: Sequence[Self]) -> Self:
        """Joins profiles of several models, measured in turn on the same devices.

        A link is as fast as the model measured it that used it best.
        """
        speeds: dict[Pair, float] = defaultdict(float)
        slack: dict[Post, float] = {}
        for profile in profiles:
            slack |= profile.prefill_tokens_per_s
            for pair, speed in profile.bytes_per_s.items():
                speeds[pair] = max(speeds[pair], speed)
        return cls(bytes_per_s=dict(speeds), prefill_tokens_per_s=slack)

    def links(self, source: DeviceGroupId, target: DeviceGroupId) -> tuple[LinkId, ...]:
        """Returns the links that a move between two devices takes part of."""
        return (_out(source), _between((source, target)), _into(target))

    def link_bytes(self, epoch_s: float) -> dict[LinkId, float]:
        """Returns the bytes that each link carries in an epoch."""
        found: dict[LinkId, float] = defaultdict(float)
        for pair, speed in self.bytes_per_s.items():
            found[_between(pair)] = speed * epoch_s
            for port in (_out(pair[0]), _into(pair[1])):
                found[port] = max(found[port], speed * epoch_s)
        return dict(found)

    def prefill_tokens(self, epoch_s: float) -> dict[Post, float]:
        """Returns the tokens that each instance can prefill for moves in an epoch."""
        speeds = self.prefill_tokens_per_s
        return {post: speed * epoch_s for post, speed in speeds.items()}

    def __str__(self) -> str:
        links = self.bytes_per_s.values()
        found = f"links of {_range(links, unit=1e9)} GB/s" if links else "links"
        slack = _range(self.prefill_tokens_per_s.values(), unit=1.0)
        return f"{len(links)} {found}, prefill for moves of {slack} tokens/s"


def measure(
    workers: Mapping[DeviceGroupId, DeviceWorker],
    *,
    model: ModelId,
    transport: Transport,
    share: float = PREFILL_SHARE,
) -> Profile:
    """Measures what moves have to go by; after `warm_up` of workers and transfers.

    Args:
      workers: of one model, all with their pools.
      transport: unchecked, since what is carried here is mostly zeros.
      share: of the time that an instance decodes, what prefill may add to it.
    """
    by_hardware: dict[object, float] = {}
    slack = {}
    for device, worker in workers.items():
        hardware = worker.group.devices
        if hardware not in by_hardware:  # instances that share devices are equal
            by_hardware[hardware] = slack_tokens_per_s(
                time_steps(worker, repeats=REPEATS), share=share
            )
        slack[device, model] = by_hardware[hardware]
    profile = Profile(
        bytes_per_s=_measure_links(workers, transport=transport),
        prefill_tokens_per_s=slack,
    )
    logging.info("measured %s", profile)
    for (source, target), speed in profile.bytes_per_s.items():
        logging.debug("device %d to %d: %.2f GB/s", source, target, speed / 1e9)
    return profile


def slack_tokens_per_s(timings: Sequence[Timing], *, share: float) -> float:
    """Returns tokens per second that can be prefilled beside a full decoding batch.

    A step of `d` seconds that becomes one of `m` has done its prefill in `m - d`. In
    one second, 1 / (1 + share) is left for decoding, and the chunks may take the rest;
    but there is at most one chunk in a step.
    """
    if not (share > 0):
        raise ValueError(f"share must be > 0, got {share}")
    decode_s = min(t.took_s for t in timings if t.prefill_tokens == 0)
    best = 0.0
    for timing in timings:
        if timing.prefill_tokens > 0:
            extra_s = max(timing.took_s - decode_s, 0.0)
            steps_per_s = 1.0 / timing.took_s
            if extra_s > 0:
                steps_per_s = min(steps_per_s, share / (1.0 + share) / extra_s)
            best = max(best, timing.prefill_tokens * steps_per_s)
    return best


def speeds_of(
    kinds: Mapping[Pair, object], *, measure: Callable[[Pair], float], cap: int
) -> dict[Pair, float]:
    """Returns the speed of every pair; of each kind, `cap` pairs are measured.

    The others count as the slowest of their kind.
    """
    measured: dict[object, list[float]] = defaultdict(list)
    speeds = {}
    for pair, kind in kinds.items():
        if len(measured[kind]) < cap:
            speeds[pair] = measure(pair)
            measured[kind].append(speeds[pair])
    if len(speeds) < len(kinds):
        logging.info(
            "%d of %d links were measured, %d of each kind; the others count as the "
            "slowest of their kind",
            len(speeds),
            len(kinds),
            cap,
        )
    return {pair: speeds.get(pair, min(measured[kind])) for pair, kind in kinds.items()}


def _measure_links(
    workers: Mapping[DeviceGroupId, DeviceWorker], *, transport: Transport
) -> dict[Pair, float]:
    kinds = {
        (a, b): _kind(workers[a], workers[b])
        for a in workers
        for b in workers
        if a != b
    }
    return speeds_of(
        kinds,
        measure=lambda pair: _speed(workers, pair, transport=transport),
        cap=PAIRS_PER_KIND,
    )


def _kind(source: DeviceWorker, target: DeviceWorker) -> object:
    a, b = source.group, target.group
    shared = len(set(a.devices) & set(b.devices))
    kinds = (a.devices[0].device_kind, b.devices[0].device_kind)
    return (kinds, (a.size, a.copies), (b.size, b.copies), shared)


def _speed(
    workers: Mapping[DeviceGroupId, DeviceWorker], pair: Pair, *, transport: Transport
) -> float:
    """Returns bytes per second of the longest chunk, the best of a few."""
    source, target = workers[pair[0]], workers[pair[1]]
    pages: Pages = np.full(page_transfer.CHUNK_PAGES[0], SCRATCH_PAGE, np.int32)
    best_s, nbytes = math.inf, 0
    for _ in range(REPEATS + 1):  # the first one warms up
        start_s = time.perf_counter()
        transfer = transport.carry(
            page_transfer.pack(source, pages),
            source=pair[0],
            target=pair[1],
            to=target.group,
        )
        page_transfer.unpack(target, transfer, pages)
        jax.block_until_ready(target.pool)
        best_s = min(best_s, time.perf_counter() - start_s)
        nbytes = transfer.nbytes
    return nbytes / best_s


def _out(source: DeviceGroupId) -> LinkId:
    return LinkId(f"{source} out")


def _into(target: DeviceGroupId) -> LinkId:
    return LinkId(f"{target} in")


def _between(pair: Pair) -> LinkId:
    return LinkId(f"{pair[0]} to {pair[1]}")


def _range(values: Collection[float], *, unit: float) -> str:
    numbers = [value / unit for value in values]
    return f"{min(numbers):.3g} to {max(numbers):.3g}"
