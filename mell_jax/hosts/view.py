"""A fleet of hosts becomes a `FleetView`, as one front end sees it.

    controller  -> Overview    who is where, moves, what was counted
    hosts       -> HostLoad    rows, cached pages, bytes sent
    front end   -> Follower    ticks and gaps of its streams

While the controller is away its part stays as it was told last, and says how old it is.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import final

from mell_jax.engine.fleet.viewer import STAGES
from mell_jax.engine.fleet_view import (
    FleetStats,
    FleetView,
    GroupState,
    InstanceView,
    ModelView,
    MoveEnd,
    MoveOutcome,
    MoveReason,
    MoveStage,
    MoveView,
)
from mell_jax.engine.hosts.load import GroupLoad, HostLoad
from mell_jax.engine.stream_view import RequestsView
from mell_jax.hosts.follow import Follower
from mell_jax.scheduler.hosts.roll import Seat
from mell_jax.scheduler.hosts.tally import Counts, plus
from mell_jax.scheduler.hosts.view import GroupSeen, HostSeen, MoveSeen, Overview
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.placement.device_seconds import DeviceSeconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """This is what others have told, and when the controller did."""

    overview: Overview
    at_s: float
    counts: Counts  # of this controller and those before
    hosts: HostLoad
    groups: Mapping[DeviceGroupId, GroupLoad]


@final
class HostsViewer:
    """The viewer makes the views of one front end.

    Args:
      follower: has its streams.
      capacity_pages: that an instance of each model has.
      clock: seconds, never backwards.
    """

    def __init__(
        self,
        follower: Follower,
        *,
        capacity_pages: Mapping[ModelId, int],
        clock: Callable[[], float],
    ) -> None:
        self.overview: Overview | None = None  # the latest
        self._told_s = -math.inf
        self._follower = follower
        self._capacity_pages = dict(capacity_pages)
        self._clock = clock
        self._past = Counts()  # of controllers that are gone
        self._in_use = DeviceSeconds()
        self._looks = 0

    def hear(self, overview: Overview) -> None:
        """The controller tells what it knows."""
        before = self.overview
        if before is not None and before.generation != overview.generation:
            self._past = plus(self._past, before.counts)
        self.overview, self._told_s = overview, self._clock()

    def view(self, hosts: HostLoad) -> FleetView | None:
        """Returns the fleet as of now; None before the controller has told of it."""
        if self.overview is None:
            return None
        self._looks += 1
        now_s = self._clock()
        told = Told(
            overview=self.overview,
            at_s=self._told_s,
            counts=plus(self._past, self.overview.counts),
            hosts=hosts,
            groups={group.device: group for group in hosts.groups},
        )
        instances = tuple(self._instances(told))
        known = {instance.device for instance in instances}
        follower, overview = self._follower, told.overview
        view = FleetView(
            number=self._looks,
            at_s=follower.ticks.now_s,
            controller_age_s=now_s - told.at_s,
            instances=instances,
            models=tuple(
                ModelView(
                    name=model.name,
                    lower_bound=model.lower_bound,
                    waiting=model.waiting,
                )
                for model in overview.models
            ),
            moves=tuple(
                _move(move)
                for move in overview.moves
                if {move.source, move.target} <= known
            ),
            stats=self._stats(told),
            link_bytes_per_s={
                (link.source, link.target): link.bytes_per_s
                for link in overview.links
                if {link.source, link.target} <= known
            },
            prefill_tokens_per_s={
                (group.device, group.model): host.prefill_tokens_per_s
                for host in overview.hosts
                for group in host.groups
                if group.device in known and group.model is not None
            },
            serving=None,
            requests=self._requests(overview),
            streams=follower.ticks.views(),
            gaps=follower.ticks.gaps(),
            device_s=self._in_use.total_s(now_s),
        )
        self._in_use.count(view.devices_in_use, now_s=now_s)
        return view

    def _instances(self, told: Told) -> Iterator[InstanceView]:
        for host in told.overview.hosts:
            for group in host.groups:
                yield self._instance(host, group, told.groups.get(group.device))

    def _instance(
        self, host: HostSeen, group: GroupSeen, load: GroupLoad | None
    ) -> InstanceView:
        model = group.model
        return InstanceView(
            device=group.device,
            host=host.name,
            number=group.number,
            epoch=host.epoch,
            state=_state(group, is_told=load is not None),
            model=model or "",
            capacity_pages=self._capacity_pages[model] if model is not None else 0,
            used_pages=group.used_pages,
            reserved_pages=group.reserved_pages,
            paused=group.paused,
            cached_pages=load.cached_pages if load is not None else 0,
            running=load.running if load is not None else 0,
            waiting=load.waiting if load is not None else 0,
        )

    def _requests(self, overview: Overview) -> RequestsView:
        seen = overview.requests
        return RequestsView(
            numbers=seen.numbers,
            devices=seen.devices,
            targets=seen.targets,
            pages=seen.pages,
            tokens=tuple(
                prompt + tokens if (tokens := self._follower.tokens(request)) else 0
                for request, prompt in zip(seen.numbers, seen.prompts, strict=True)
            ),
            left_out=seen.left_out,
        )

    def _stats(self, told: Told) -> FleetStats:
        counts, follower = told.counts, self._follower
        return FleetStats(
            begun={begun.mode: begun.count for begun in counts.begun},
            ended=dict(_ended(counts)),
            carried=dict(_carried(counts, overview=told.overview)),
            deferred=counts.deferred,
            violations=counts.violations,
            sent_bytes=told.hosts.sent_bytes,
            stages=told.hosts.stages,
            activations=counts.activations,
            activation_s=counts.activation_s,
            parkings=counts.parkings,
            losses=counts.losses,
            replays=counts.replays,
            pauses=counts.pauses,
            preemptions=counts.preemptions,
            broken=follower.broken,
            gap_steps=None,
            gap_s=follower.gap_s.frozen(),
        )


def _state(group: GroupSeen, *, is_told: bool) -> GroupState:
    """Returns what a group does; it serves once its host tells how busy it is."""
    if group.model is None:
        return GroupState.DRAINED if group.is_given_back else GroupState.PARKED
    if group.is_closing:
        return GroupState.DRAINING
    is_ready = group.is_open and is_told
    return GroupState.SERVING if is_ready else GroupState.OPENING


def _move(move: MoveSeen) -> MoveView:
    return MoveView(
        request=move.request,
        source=move.source,
        target=move.target,
        mode=move.mode.name.lower() if move.mode is not None else "",
        stage=STAGES[move.phase] if move.phase is not None else MoveStage.WAITING,
    )


def _ended(counts: Counts) -> Iterator[tuple[MoveEnd, int]]:
    for ended in counts.ended:
        is_urgent, is_done = ended.is_urgent, ended.is_committed
        end = MoveEnd(
            reason=MoveReason.URGENT if is_urgent else MoveReason.CONSOLIDATION,
            mode=ended.mode,
            outcome=MoveOutcome.COMMITTED if is_done else MoveOutcome.ABORTED,
        )
        yield end, ended.count


def _carried(
    counts: Counts, *, overview: Overview
) -> Iterator[tuple[tuple[int, int], int]]:
    """Yields moves between device groups that there are now, by their numbers."""
    devices = {
        Seat(host=host.name, number=group.number): int(group.device)
        for host in overview.hosts
        for group in host.groups
    }
    for carried in counts.carried:
        source, target = devices.get(carried.source), devices.get(carried.target)
        if source is not None and target is not None:
            yield (source, target), carried.count
