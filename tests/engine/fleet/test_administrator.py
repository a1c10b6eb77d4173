"""What an operator may ask of a fleet while it serves; streams never notice."""

import contextlib
import itertools
from typing import Any

import pytest

from mell_jax.engine.admin import (
    Command,
    DeviceStatus,
    Drain,
    ListPlacements,
    Migrate,
    Migration,
    Picture,
    Placement,
    Placements,
    PolicyChange,
    SetPolicy,
    Snapshot,
    Undrain,
)
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet_view import FleetView, GroupState
from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.placement.operator import NotPossibleError, UnknownTargetError
from mell_jax.scheduler.policies import POLICIES
from tests.engine.fleet.toy_fleet import TOY, toy_fleet
from tests.toy import Transcript, expected, submit

LONG = SamplingParams(temperature=0.0, max_tokens=60)
PROMPTS = [[n + 1] * (n * 3 + 1) for n in range(10)]
BOTH = {TOY: 1, ModelId("double"): 2}


def busy_fleet(**more: Any) -> Fleet:
    """Ten requests, a few tokens on."""
    fleet = toy_fleet(**more)
    for handle, prompt in enumerate(PROMPTS):
        submit(fleet, prompt, handle=handle, params=LONG)
    return fleet


def run(fleet: Fleet, seen: Transcript, *, until: Any = None) -> None:
    for _ in range(5000):
        seen.read(fleet.step())
        fleet.machine.ledger.check()
        if not fleet.has_work if until is None else until():
            return
    raise AssertionError("5,000 steps were not enough")


def steps(fleet: Fleet, seen: Transcript, count: int) -> None:
    left = iter(range(count))
    run(fleet, seen, until=lambda: next(left) == count - 1)


def assert_streams_are_right(seen: Transcript) -> None:
    assert seen.tokens == {
        handle: expected(prompt, count=60) for handle, prompt in enumerate(PROMPTS)
    }


def view_of(fleet: Fleet) -> FleetView:
    answer = fleet.administer(Snapshot())
    assert isinstance(answer, Picture)
    return answer.view


def list_all(fleet: Fleet, command: ListPlacements | None = None) -> list[Placement]:
    answer = fleet.administer(command or ListPlacements())
    assert isinstance(answer, Placements)
    return list(answer.placements)


def test_placements_are_listed_largest_first() -> None:
    fleet, seen = busy_fleet(), Transcript()
    steps(fleet, seen, 10)
    found = list_all(fleet)
    assert [each.request for each in found][:3] == [7, 8, 9]
    assert {each.handle for each in found} == set(range(10))
    assert sorted(each.prompt_tokens for each in found) == [
        1, 4, 7, 10, 13, 16, 19, 22, 25, 28,
    ]  # fmt: skip
    pages = [each.pages for each in found]
    assert pages == sorted(pages, reverse=True)
    counts = [len(list_all(fleet, ListPlacements(device=n))) for n in range(3)]
    assert sum(counts) == 10 and max(counts) <= 8
    answer = fleet.administer(ListPlacements(model="toy", max_results=3))
    assert isinstance(answer, Placements)
    assert (len(answer.placements), answer.total) == (3, 10)
    run(fleet, seen)
    assert list_all(fleet) == []
    assert_streams_are_right(seen)


def test_a_request_goes_where_an_operator_sends_it() -> None:
    fleet, seen = busy_fleet(), Transcript()
    steps(fleet, seen, 10)
    placed = {each.request: each.device for each in list_all(fleet)}
    serving = sorted(set(placed.values()) - {None})
    assert len(serving) == 2
    request = next(r for r, device in placed.items() if device == serving[1])
    here, there = serving[1], serving[0]
    moves = fleet.stats().carried.get((here, there), 0)
    room = [r for r, device in placed.items() if device == there]
    for each in room[:2]:  # rows are what is scarce
        fleet.administer(Migrate(request=each, device=here))
    steps(fleet, seen, 8)
    answer = fleet.administer(Migrate(request=request, device=there))
    assert answer == Migration(source=here, target=there, is_moving=True)
    with pytest.raises(NotPossibleError, match=f"on its way to device {there}"):
        fleet.administer(Migrate(request=request, device=there))
    (moving,) = (each for each in list_all(fleet) if each.request == request)
    assert (moving.device, moving.target) == (here, there)
    steps(fleet, seen, 8)
    answer = fleet.administer(Migrate(request=request, device=there))
    assert answer == Migration(source=there, target=there, is_moving=False)
    assert fleet.stats().carried[here, there] == moves + 1
    run(fleet, seen)
    assert_streams_are_right(seen)


def test_a_migration_that_cannot_be_says_why() -> None:
    fleet, seen = busy_fleet(devices=4, factors=BOTH), Transcript()
    submit(fleet, [1], handle=99, params=LONG, model="double")
    steps(fleet, seen, 10)
    placed = {each.handle: each for each in list_all(fleet)}
    view = view_of(fleet)
    parked = [i.device for i in view.instances if i.state is GroupState.PARKED]
    full = next(i.device for i in view.instances if i.running == 8)
    other = next(each for each in placed.values() if each.device != full)
    double = placed[99]
    for command, message in (
        (Migrate(request=other.request, device=parked[0]), "is parked"),
        (Migrate(request=double.request, device=full), "serves toy"),
    ):
        with pytest.raises(NotPossibleError, match=message):
            fleet.administer(command)
    toys = [each for each in placed.values() if each.model == "toy"]
    outside = next(each for each in toys if each.device != full)
    with pytest.raises(NotPossibleError, match="has room for 0"):
        fleet.administer(Migrate(request=outside.request, device=full))
    for command in (
        Migrate(request=1234, device=0),
        Migrate(request=other.request, device=4),
        Migrate(request=other.request, device=-1),
        Drain(device=4),
        Undrain(device=-1),
        ListPlacements(device=7),
        ListPlacements(model="none"),
    ):
        with pytest.raises(UnknownTargetError):
            fleet.administer(command)


def test_a_request_that_waits_cannot_be_moved() -> None:
    fleet = toy_fleet(devices=2, rows=2)
    for handle in range(6):
        submit(fleet, [handle + 1], handle=handle, params=LONG)
    fleet.step()
    waiting = next(each for each in list_all(fleet) if each.device is None)
    with pytest.raises(NotPossibleError, match="waits for its first place"):
        fleet.administer(Migrate(request=waiting.request, device=0))


def test_a_drained_device_is_empty_and_stays_so_until_it_is_taken_back() -> None:
    fleet, seen = busy_fleet(), Transcript()
    steps(fleet, seen, 10)
    first = list_all(fleet)[0].device
    assert first is not None
    begun = fleet.administer(Drain(device=first))
    assert isinstance(begun, DeviceStatus)
    assert begun.state is GroupState.DRAINING and begun.requests_left > 0
    assert view_of(fleet).instances[first].state is GroupState.DRAINING

    def is_drained() -> bool:
        return fleet.administer(Drain(device=first)) == DeviceStatus(
            state=GroupState.DRAINED, requests_left=0
        )

    run(fleet, seen, until=is_drained)
    assert fleet.has_work, "it drained while its streams went on"
    assert DeviceGroupId(first) not in fleet.instances
    for handle in range(20, 30):
        submit(fleet, [handle], handle=handle, params=LONG)
    run(fleet, seen)
    assert view_of(fleet).instances[first].state is GroupState.DRAINED
    assert {h: seen.tokens[h] for h in range(20, 30)} == {
        h: expected([h], count=60) for h in range(20, 30)
    }
    answer = fleet.administer(Undrain(device=first))
    assert answer == DeviceStatus(state=GroupState.PARKED, requests_left=0)
    assert fleet.administer(Undrain(device=first)) == answer


def test_a_drain_can_be_called_off() -> None:
    fleet, seen = busy_fleet(devices=2, rows=5), Transcript()
    steps(fleet, seen, 10)
    answer = fleet.administer(Drain(device=1))
    assert answer == DeviceStatus(state=GroupState.DRAINING, requests_left=5)
    steps(fleet, seen, 5)
    assert fleet.administer(Drain(device=1)) == answer  # there is no room elsewhere
    answer = fleet.administer(Undrain(device=1))
    assert answer == DeviceStatus(state=GroupState.SERVING, requests_left=5)
    run(fleet, seen)
    assert_streams_are_right(seen)


def test_the_last_device_is_not_drained() -> None:
    fleet, seen = busy_fleet(devices=2), Transcript()
    steps(fleet, seen, 3)
    fleet.administer(Drain(device=0))
    with pytest.raises(NotPossibleError, match="device 1 is the last one"):
        fleet.administer(Drain(device=1))
    run(fleet, seen)
    assert_streams_are_right(seen)


def test_a_device_that_has_failed_is_neither_drained_nor_taken_back() -> None:
    config = FleetConfig(fault=Fault(raise_on=(DeviceGroupId(0), 5)))
    fleet, seen = busy_fleet(config=config), Transcript()
    run(fleet, seen)
    for command in (Drain(device=0), Undrain(device=0)):
        with pytest.raises(NotPossibleError, match="device 0 has failed"):
            fleet.administer(command)
    assert_streams_are_right(seen)


def test_a_fleet_whose_devices_were_drained_or_lost_says_so() -> None:
    config = FleetConfig(fault=Fault(raise_on=(DeviceGroupId(0), 5)))
    fleet = busy_fleet(devices=2, config=config)
    fleet.administer(Drain(device=1))
    with pytest.raises(RuntimeError, match="failed or was drained"):
        run(fleet, Transcript())


def test_streams_are_right_under_every_policy_that_takes_over() -> None:
    fleet, seen = busy_fleet(num_pages=12), Transcript()
    names, before = itertools.cycle(sorted(POLICIES)), "consolidate"
    while fleet.has_work:
        name = next(names)
        answer = fleet.administer(SetPolicy(policy=name, headroom=0.1))
        assert isinstance(answer, PolicyChange)
        assert (answer.policy, answer.before) == (name, before)
        before = name
        picture = fleet.administer(Snapshot())
        assert isinstance(picture, Picture) and picture.policy == name
        seen.read(fleet.step())
        fleet.machine.ledger.check()
    assert_streams_are_right(seen)


@pytest.mark.parametrize(
    ("command", "look_s"),
    [
        (SetPolicy(policy="consolidate", look_s=2.0), 2.0),
        (SetPolicy(policy="mell", look_s=7.5), 7.5),
        (SetPolicy(policy="best_fit", look_s=7.5), 0.0),  # it never looks ahead
    ],
)
def test_a_policy_is_told_what_the_operator_wants(
    command: SetPolicy, look_s: float
) -> None:
    fleet = toy_fleet()
    answer = fleet.administer(command)
    assert isinstance(answer, PolicyChange)
    assert answer.look_s == look_s
    assert fleet.machine.ledger.look_pages(TOY) == look_s


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (SetPolicy(policy="random"), "policy"),
        (SetPolicy(policy=""), "policy"),
        (SetPolicy(policy="mell", look_s=-1.0), "look_s"),
        (SetPolicy(policy="mell", look_s=float("nan")), "look_s"),
        (SetPolicy(policy="mell", look_s=float("inf")), "look_s"),
        (SetPolicy(policy="mell", headroom=1.0), "headroom"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_and_the_old_one_stays(
    command: Command, field: str
) -> None:
    fleet = toy_fleet()
    with pytest.raises(InvalidRequestError) as caught:
        fleet.administer(command)
    assert caught.value.field == field
    picture = fleet.administer(Snapshot())
    assert isinstance(picture, Picture) and picture.policy == "consolidate"


def test_streams_are_right_while_an_operator_does_everything_at_once() -> None:
    fleet, seen = busy_fleet(num_pages=14, devices=4), Transcript()
    policies, count = itertools.cycle(sorted(POLICIES)), 0
    while fleet.has_work:
        count += 1
        commands: list[Command] = [
            Drain(device=count % 4) if count % 3 else Undrain(device=count // 3 % 4),
            *(
                Migrate(request=each.request, device=(each.request + count) % 4)
                for each in list_all(fleet)
            ),
        ]
        if count % 5 == 0:
            commands.append(SetPolicy(policy=next(policies)))
        for command in commands:
            with contextlib.suppress(NotPossibleError):
                fleet.administer(command)
        seen.read(fleet.step())
        fleet.machine.ledger.check()
        assert count < 5000
    assert_streams_are_right(seen)
    assert sum(fleet.stats().carried.values()) > 10
