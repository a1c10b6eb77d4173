"""Measures what a controller costs: how many streams one core can decide for.

A fleet is filled by arrivals, then rows fill pages and ask for more when they have none
left, requests end and others arrive, as often as streams of so many tokens a second
would. Hosts and front ends answer at once. Timed is the CPU of the coordinator alone:
no link, no encoding.
"""

import gc
import random
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hosts.fleet import Fleet, Said
from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.coordinator import PAGES_AHEAD, Coordinator
from mell_jax.scheduler.hosts.roll import PeerId
from mell_jax.scheduler.ids import ModelId, RequestId
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig

MODEL = ModelId("default")
PAGE_TOKENS = 16
CAPACITY_PAGES = 1250
PROMPT_TOKENS = 512
ANSWER_TOKENS = 512
TOKENS_PER_S = 30  # of a stream
EPOCH_S = 1.0
PATIENCE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerFigures:
    """These figures were measured with a fleet of that size.

    An event is one message that the controller hears; `streams_per_core` could be
    decided for if all had the measured mix of events, `events_per_stream_s` each.
    `packed` is the share of the pages of all instances that rows have filled, and
    `ahead` that of what they were granted and have not; both are means over epochs.
    """

    hosts: int
    groups: int
    fronts: int
    streams: int
    policy: str
    pages_ahead: int
    events: int
    sent: int
    cpu_ms_per_1000_events: float
    events_per_s: float
    event_us_p50: float
    event_us_p99: float
    event_us_max: float
    events_per_stream_s: float
    streams_per_core: float
    fill_events_per_s: float
    epoch_ms_max: float
    beat_ms: float
    host_lost_ms: float
    bytes_per_stream: float
    memory_mib: float
    instances: int  # that serve in the end
    moves: int
    packed: float
    ahead: float


class _Watch:
    """Times what the coordinator does, by the CPU of this thread."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.event_ns = array("q")
        self.now_s = 0.0
        self._coordinator = coordinator

    def hear(self, said: Said) -> list[Any]:
        peer, message = said
        begin = time.thread_time_ns()
        todo = self._coordinator.heard(peer, message, now_s=self.now_s)
        self.event_ns.append(time.thread_time_ns() - begin)
        return list(todo)

    def restart(self) -> "array[int]":
        """Returns the times until now, and begins anew."""
        past, self.event_ns = self.event_ns, array("q")
        return past


class _Rows(Fleet):
    """A fleet whose rows fill pages, and want more only when they have none left."""

    def __init__(self, coordinator: Coordinator, *, hear: Any) -> None:
        super().__init__(coordinator, hear=hear)
        self.filled: dict[RequestId, int] = {}
        self.shares: list[tuple[float, float]] = []  # as `packed`, by epochs
        self._answers[words.HostsChanged] = self._changed

    def ask(self, *, model: ModelId, prompt: int, pages: int) -> None:
        super().ask(model=model, prompt=prompt, pages=pages)
        self.filled[self.live[-1]] = pages

    def end(self, index: int) -> None:
        del self.filled[self.live[index]]
        super().end(index)

    def fill(self, request: RequestId) -> None:
        """A row goes on to its next page, or asks for it."""
        running = self.streams[request]
        if self.filled[request] >= running.pages:
            self.want(request)
        if self.filled[request] < running.pages:
            self.filled[request] += 1

    def packed(self) -> tuple[float, float]:
        """Returns the shares of pages that are filled, and are granted beyond that."""
        capacity = CAPACITY_PAGES * len(self._coordinator.machine.ledger.instances)
        filled = sum(self.filled[request] for request in self.streams)
        granted = sum(running.pages for running in self.streams.values())
        return filled / capacity, (granted - filled) / capacity

    def _changed(self, peer: PeerId, message: words.HostsChanged) -> Any:
        return self._learned(peer, words.Hosts(hosts=message.came))


class _Load:
    """Streams that ask for pages, end, and are followed by others."""

    def __init__(self, fleet: _Rows, *, watch: _Watch, streams: int, seed: int) -> None:
        self._fleet = fleet
        self._watch = watch
        self._streams = streams
        self._rng = random.Random(seed)

    def arrive(self, *, is_old: bool = False) -> None:
        """A request comes, of random length; an old one has a part of its answer."""
        tokens = 1 + self._rng.expovariate(1 / PROMPT_TOKENS)
        if is_old:
            tokens += self._rng.expovariate(1 / ANSWER_TOKENS)
        tokens = min(int(tokens), CAPACITY_PAGES * PAGE_TOKENS // 2)
        pages = -(-tokens // PAGE_TOKENS)
        self._fleet.ask(model=MODEL, prompt=tokens, pages=pages)

    def run(self, *, seconds: float) -> float:
        """Goes on for so long, in the fleet's time; returns how long it was."""
        fleet, watch, rng = self._fleet, self._watch, self._rng
        wants_per_end = ANSWER_TOKENS // PAGE_TOKENS
        step_s = PAGE_TOKENS / TOKENS_PER_S / self._streams  # from one want to the next
        begin_s = watch.now_s
        while watch.now_s < begin_s + seconds:
            watch.now_s += step_s
            request = fleet.live[rng.randrange(len(fleet.live))]
            if request in fleet.streams:
                fleet.fill(request)
            if rng.random() * wants_per_end < 1:
                fleet.end(rng.randrange(len(fleet.live)))
                self.arrive()
        return watch.now_s - begin_s


def measure_controller(
    *,
    hosts: int = 1000,
    groups: int = 8,
    fronts: int = 16,
    streams: int = 100_000,
    num_events: int = 400_000,
    warm_s: float = 10.0,
    policy: str = "consolidate",
    pages_ahead: int = PAGES_AHEAD,
    seed: int = 0,
) -> ControllerFigures:
    """Fills a fleet with so many streams, and times the events that follow.

    Args:
      hosts: with `groups` device groups each.
      fronts: front ends, which share the streams evenly.
      streams: at any time.
      warm_s: of the fleet's time, before: one that was only filled moves more.
      num_events: at least; whole seconds of the fleet's time are measured.
      policy: of placement.
      pages_ahead: that a row gets at most beyond what it asks for.
      seed: of lengths, and of who asks when.

    Raises:
      ValueError: a count is not positive.
    """
    for name, value in (("hosts", hosts), ("groups", groups), ("streams", streams)):
        if not (value >= 1):
            raise ValueError(f"{name} must be >= 1, got {value}")
    empty_bytes = _resident_bytes()
    coordinator = _new_coordinator(hosts=hosts, policy=policy, ahead=pages_ahead)
    watch = _Watch(coordinator)
    fleet = _Rows(coordinator, hear=watch.hear)
    load = _Load(fleet, watch=watch, streams=streams, seed=seed)
    fleet.join(hosts=hosts, groups=groups, fronts=fronts)
    for _ in range(2):
        fleet.take(list(coordinator.beat(now_s=watch.now_s)))
    begun_bytes = _resident_bytes()
    watch.restart()
    _fill(load, streams=streams, watch=watch)
    fill_ns = watch.restart()
    gc.collect()
    full_bytes = _resident_bytes()
    _go_on(load, fleet, coordinator, watch, warm_s=warm_s)
    watch.restart()
    fleet.sent = fleet.moves = 0
    fleet.shares.clear()
    epochs_ns, lasted_s = _go_on(load, fleet, coordinator, watch, num_events=num_events)
    events_ns = watch.restart()
    packed, ahead = np.mean(fleet.shares, axis=0).tolist()
    rate = len(events_ns) / (sum(events_ns) / 1e9)
    per_stream_s = len(events_ns) / lasted_s / streams
    return ControllerFigures(
        hosts=hosts,
        groups=groups,
        fronts=fronts,
        streams=streams,
        policy=policy,
        pages_ahead=pages_ahead,
        events=len(events_ns),
        sent=fleet.sent,
        cpu_ms_per_1000_events=1e6 / rate,
        events_per_s=rate,
        **_quantiles(events_ns),
        events_per_stream_s=per_stream_s,
        streams_per_core=rate / per_stream_s,
        fill_events_per_s=len(fill_ns) / (sum(fill_ns) / 1e9),
        epoch_ms_max=max(epochs_ns) / 1e6,
        beat_ms=_timed_ms(lambda: coordinator.beat(now_s=watch.now_s)),
        bytes_per_stream=(full_bytes - begun_bytes) / streams,
        memory_mib=(full_bytes - empty_bytes) / 2**20,
        instances=len(coordinator.machine.ledger.instances),
        moves=fleet.moves,
        packed=packed,
        ahead=ahead,
        host_lost_ms=_lose_host(coordinator, fleet, watch),
    )


def _new_coordinator(*, hosts: int, policy: str, ahead: int) -> Coordinator:
    spec = ModelSpec(
        capacity_pages=CAPACITY_PAGES,
        growth_pages_per_s=TOKENS_PER_S / PAGE_TOKENS,
        page_tokens=PAGE_TOKENS,
        page_bytes=2.0 * 2**20,
    )
    return Coordinator(
        models={MODEL: spec},
        policy=policy,
        policies=PolicyConfig(epoch_s=EPOCH_S),
        patience=PATIENCE,
        least_hosts=hosts,
        pages_ahead=ahead,
    )


def _fill(load: _Load, *, streams: int, watch: _Watch) -> None:
    for _ in range(streams):
        watch.now_s += 1e-4
        load.arrive(is_old=True)


def _go_on(
    load: _Load,
    fleet: _Rows,
    coordinator: Coordinator,
    watch: _Watch,
    *,
    num_events: int = 0,
    warm_s: float = 0.0,
) -> tuple[list[int], float]:
    """Goes on for so many events, so long, and for an epoch at least.

    Returns the times of ticks, and the seconds that passed in the fleet.
    """
    epochs_ns: list[int] = []
    lasted_s = 0.0
    while len(watch.event_ns) < num_events or lasted_s < max(warm_s, EPOCH_S):
        lasted_s += load.run(seconds=EPOCH_S)
        begin = time.thread_time_ns()
        todo = list(coordinator.tick(now_s=watch.now_s))
        epochs_ns.append(time.thread_time_ns() - begin)
        fleet.take(todo)
        fleet.shares.append(fleet.packed())
    return epochs_ns, lasted_s


def _lose_host(coordinator: Coordinator, fleet: _Rows, watch: _Watch) -> float:
    running = next(iter(fleet.streams.values()))
    peer = fleet.peer_of(running.device)
    return _timed_ms(lambda: coordinator.cut(peer, now_s=watch.now_s))


def _timed_ms(act: Any) -> float:
    begin = time.thread_time_ns()
    act()
    return (time.thread_time_ns() - begin) / 1e6


def _quantiles(events_ns: Sequence[int]) -> dict[str, float]:
    us = np.array(events_ns) / 1e3
    return {
        "event_us_p50": float(np.quantile(us, 0.5)),
        "event_us_p99": float(np.quantile(us, 0.99)),
        "event_us_max": float(us.max()),
    }


def _resident_bytes() -> int:
    """Returns the memory of this process, as Linux counts it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
