"""The view of a front end, of what hosts and a controller say here."""

from dataclasses import replace

import numpy as np

from mell_jax import top
from mell_jax.engine.fleet_view import (
    FleetView,
    GroupState,
    MoveEnd,
    MoveOutcome,
    MoveReason,
    MoveStage,
    MoveView,
)
from mell_jax.engine.frames import Handle, StepFrame, frame_of_tokens
from mell_jax.engine.hosts.load import GroupLoad, HostLoad
from mell_jax.hosts.follow import Follower
from mell_jax.hosts.loads import MOST_NAMES, NO_LOAD, HostLoads
from mell_jax.hosts.view import HostsViewer
from mell_jax.page.live import moment_of
from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.roll import Seat
from mell_jax.scheduler.hosts.tally import CarriedMoves, Counts, EndedMoves
from mell_jax.scheduler.hosts.view import (
    GroupSeen,
    HostSeen,
    LinkSeen,
    ModelSeen,
    MoveSeen,
    Overview,
    RequestsSeen,
)
from mell_jax.scheduler.ids import (
    FRONT_BITS,
    CopyId,
    DeviceGroupId,
    Epoch,
    ModelId,
    RequestId,
)
from mell_jax.scheduler.migration import messages
from mell_jax.scheduler.migration.records import MovePhase
from mell_jax.scheduler.transfer import Mode
from mell_jax.serving.metrics.scrape import Scrape

MODEL = ModelId("m")
ONE = RequestId((5 << FRONT_BITS) + 1)
THEIRS = RequestId((6 << FRONT_BITS) + 1)
HANDLE = Handle(77)
D1, D2, D3, D4 = map(DeviceGroupId, (11, 12, 21, 22))
LEFT, RIGHT = Epoch(1001), Epoch(1002)
COUNTS = Counts(
    ended=(EndedMoves(mode=Mode.KV, is_urgent=True, is_committed=True, count=4),),
    carried=(
        CarriedMoves(
            source=Seat(host="left", number=0),
            target=Seat(host="right", number=1),
            count=3,
        ),
        CarriedMoves(
            source=Seat(host="gone", number=0),
            target=Seat(host="right", number=1),
            count=1,
        ),
    ),
    preemptions=2,
    losses=1,
)
OVERVIEW = Overview(
    generation=8,
    policy="best_fit",
    hosts=(
        HostSeen(
            name="left",
            epoch=LEFT,
            groups=(
                GroupSeen(device=D1, number=0, model=MODEL, is_open=True, used_pages=6),
                GroupSeen(device=D2, number=1, model=None),
            ),
            prefill_tokens_per_s=500.0,
        ),
        HostSeen(
            name="right",
            epoch=RIGHT,
            groups=(
                GroupSeen(device=D3, number=0, model=MODEL, is_closing=True),
                GroupSeen(
                    device=D4, number=1, model=MODEL, is_open=True, reserved_pages=3
                ),
            ),
            prefill_tokens_per_s=400.0,
        ),
    ),
    models=(ModelSeen(name=MODEL, lower_bound=1, waiting=2),),
    moves=(
        MoveSeen(
            request=ONE,
            source=D1,
            target=D4,
            mode=Mode.KV,
            phase=MovePhase.COPYING,
        ),
    ),
    requests=RequestsSeen(
        numbers=(ONE, THEIRS),
        models=(0, 0),
        devices=(D1, -1),
        targets=(D4, -1),
        pages=(6, 2),
        prompts=(10, 12),
        are_paused=(False, False),
        left_out=9,
    ),
    links=(LinkSeen(source=D1, target=D4, bytes_per_s=2e6),),
    counts=COUNTS,
)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Front:
    """A front end's part of a view."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.follower = Follower(clock=self.clock)
        self.loads = HostLoads()
        self.viewer = HostsViewer(
            self.follower, capacity_pages={MODEL: 10}, clock=self.clock
        )

    def view(self) -> FleetView:
        view = self.viewer.view(self.loads.whole())
        assert view is not None
        return view


def host_load(*groups: GroupLoad, steps: int = 5, sent_bytes: int = 100) -> HostLoad:
    load = replace(NO_LOAD, steps=steps, running=len(groups), generated_tokens=steps)
    return HostLoad(load=load, groups=groups, sent_bytes=sent_bytes, stages=2)


def group(device: DeviceGroupId) -> GroupLoad:
    return GroupLoad(device=device, running=3, waiting=1, cached_pages=2)


def told() -> Front:
    front = Front()
    front.loads.begin(LEFT, name="left")
    front.loads.begin(RIGHT, name="right")
    front.loads.tell(LEFT, host_load(group(D1)))
    front.loads.tell(RIGHT, host_load(group(D3)))
    front.viewer.hear(OVERVIEW)
    return front


def test_before_the_controller_tells_there_is_no_view() -> None:
    front = Front()
    assert front.viewer.view(front.loads.whole()) is None


def test_device_groups_are_called_by_host_and_number() -> None:
    view = told().view()
    assert view.names == {D1: "left/0", D2: "left/1", D3: "right/0", D4: "right/1"}
    assert [each.state for each in view.instances] == [
        GroupState.SERVING,
        GroupState.PARKED,
        GroupState.DRAINING,
        GroupState.OPENING,  # its host has told nothing of it yet
    ]
    first = view.instances[0]
    assert (first.running, first.waiting, first.cached_pages) == (3, 1, 2)
    assert (first.used_pages, first.capacity_pages, first.epoch) == (6, 10, LEFT)
    assert view.moves == (
        MoveView(request=ONE, source=D1, target=D4, mode="kv", stage=MoveStage.COPYING),
    )
    assert view.link_bytes_per_s == {(D1, D4): 2e6}
    assert view.prefill_tokens_per_s == {
        (D1, "m"): 500.0,
        (D3, "m"): 400.0,
        (D4, "m"): 400.0,
    }
    assert view.serving is None and view.stats.gap_steps is None


def test_counts_are_of_all_controllers_and_all_hosts() -> None:
    front = told()
    stats = front.view().stats
    urgent = MoveEnd(
        reason=MoveReason.URGENT, mode=Mode.KV, outcome=MoveOutcome.COMMITTED
    )
    assert stats.ended == {urgent: 4}
    assert stats.carried == {(D1, D4): 3}  # the other pair has an end that is gone
    assert (stats.sent_bytes, stats.stages) == (200, 4)
    front.viewer.hear(replace(OVERVIEW, generation=9, counts=Counts(losses=2)))
    stats = front.view().stats
    assert (stats.ended, stats.losses, stats.preemptions) == ({urgent: 4}, 3, 2)
    front.viewer.hear(replace(OVERVIEW, generation=9, counts=Counts(losses=3)))
    assert front.view().stats.losses == 4


def test_its_age_grows_while_the_controller_is_away() -> None:
    front = told()
    front.clock.now_s += 7.0
    view = front.view()
    assert view.controller_age_s == 7.0
    front.viewer.hear(OVERVIEW)
    assert front.view().controller_age_s == 0.0
    assert view.device_s == 0.0 and front.view().device_s == 0.0


def test_devices_in_use_are_added_up_over_the_front_ends_time() -> None:
    front = told()
    front.view()  # three in use from now on
    front.clock.now_s += 2.0
    assert front.view().device_s == 6.0


def opening(copy_id: int, device: DeviceGroupId, *, kind: str) -> words.Opening:
    own = {"request": ONE, "copy_id": CopyId(copy_id)}
    made: words.Opened
    if kind == "start":
        made = messages.Start(**own, known=10, horizon=CopyId(copy_id))
    else:
        made = messages.Reserve(
            **own, mode=Mode.KV, pages=2, known=10, horizon=CopyId(copy_id)
        )
    return words.Opening(device=device, since=None, pages=2, message=made)


def frame() -> StepFrame:
    handles = np.array([HANDLE], np.int64)
    return replace(frame_of_tokens(finished=()), handles=handles)


def take(front: Front, copy_id: int, *, at_s: float) -> None:
    front.clock.now_s = at_s
    row = words.Row(request=ONE, copy_id=CopyId(copy_id), start=0, tokens=(5,))
    front.follower.take(row)
    front.follower.see(frame())


def test_a_stream_that_moves_is_marked_where_its_tokens_change() -> None:
    front = told()
    follower = front.follower
    follower.begin(ONE, handle=HANDLE)
    follower.open(opening(256, D1, kind="start"))
    take(front, 256, at_s=101.0)
    follower.open(opening(512, D4, kind="reserve"))
    take(front, 256, at_s=101.5)
    take(front, 512, at_s=103.0)
    view = front.view()
    (stream,) = view.streams
    assert (stream.request, stream.device) == (ONE, D4)
    assert stream.ticks_s == (1.0, 1.5, 3.0)
    (mark,) = stream.moves
    assert (mark.at_s, mark.source, mark.target) == (3.0, D1, D4)
    assert (view.stats.gap_s.count, view.stats.gap_s.total) == (1, 1.5)
    assert view.gaps.after.count == 1 and view.gaps.unmoved.count == 1
    assert view.requests.tokens == (13, 0)  # those of others are not known
    follower.end(ONE)
    assert front.view().streams[0].is_over


def test_a_stream_that_begins_again_elsewhere_has_not_moved() -> None:
    front = told()
    front.follower.begin(ONE, handle=HANDLE)
    front.follower.open(opening(256, D1, kind="start"))
    take(front, 256, at_s=101.0)
    front.follower.open(opening(512, D4, kind="start"))
    take(front, 512, at_s=103.0)
    view = front.view()
    assert view.streams[0].moves == () and view.streams[0].device == D4
    assert view.stats.gap_s.count == 0


def test_loads_of_a_host_that_begins_anew_are_added_to_what_it_had() -> None:
    loads = HostLoads()
    loads.begin(LEFT, name="left")
    loads.tell(LEFT, host_load(group(D1), steps=50))
    assert loads.whole().load.running == 1
    loads.forget(LEFT)
    assert (loads.whole().load.steps, loads.whole().load.running) == (50, 0)
    loads.begin(RIGHT, name="left")  # the same process under another epoch
    loads.tell(RIGHT, host_load(steps=60))
    assert loads.whole().load.steps == 60
    loads.tell(RIGHT, host_load(steps=2))  # another process
    assert loads.whole().load.steps == 62
    assert loads.whole().sent_bytes == 200


def test_names_of_hosts_that_are_gone_are_bounded() -> None:
    loads = HostLoads()
    for number in range(MOST_NAMES + 10):
        epoch = Epoch(number + 1)
        loads.begin(epoch, name=f"ray-{number}")
        loads.tell(epoch, host_load(steps=1))
        loads.forget(epoch)
    assert len(loads._latest) <= MOST_NAMES + 1
    assert loads.whole().load.steps == MOST_NAMES + 10


def test_metrics_name_hosts_and_leave_out_what_nobody_knows() -> None:
    front = told()
    load = replace(front.loads.whole().load, fleet=front.view())
    scrape = Scrape(load=load, measured={}, refused={}, is_serving=True)
    seen = top.parse(scrape.text().decode())
    (((labels, _)),) = seen.of("instance_requests_running", host="left", device="0")
    assert labels == {"host": "left", "device": "0", "model_name": "m"}
    (((labels, _)),) = seen.of("requests_moving")
    assert (labels["source"], labels["target"]) == ("left/0", "right/1")
    assert seen.total("migrations_between_total", source="left/0") == 3.0
    assert seen.total("host_epoch", host="right") == RIGHT
    assert not seen.of("engine_sleep_state") and not seen.of("paused")
    moment = moment_of(load)
    assert moment is not None
    assert [tile.name for tile in moment.tiles] == list(front.view().names.values())
    assert moment.dots.numbers == ((5 << 30) + 1, (6 << 30) + 1)
