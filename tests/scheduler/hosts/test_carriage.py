"""Moves that wait until their target is open, and how they go then."""

import math

import pytest

from mell_jax.scheduler.hosts.carriage import Carriage
from mell_jax.scheduler.hosts.messages import LinkMeasured
from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.transfer import Mode

LEFT, RIGHT = DeviceGroupId(0), DeviceGroupId(1)


class Fleet:
    """Requests of five pages fill the left device, until one grows and goes right.

    A page has 16 tokens and 16,000 bytes; an epoch lasts two seconds.
    """

    def __init__(self, *, prefill_tokens_per_s: float = math.inf) -> None:
        spec = ModelSpec(capacity_pages=10, page_tokens=16, page_bytes=16_000.0)
        policy = POLICIES["best_fit"](PolicyConfig())
        self.machine = Machine(models={events.ONLY_MODEL: spec}, policy=policy)
        self.carriage = Carriage(self.machine.ledger, epoch_s=2.0)
        for device in (LEFT, RIGHT):
            self.machine.step(events.DeviceAdded(device=device))
            self.carriage.add(device, prefill_tokens_per_s=prefill_tokens_per_s)
        for number in range(2):
            self.machine.step(events.Arrive(request=RequestId(number), pages=5))
        self.carriage.open(LEFT)

    def overflow(self) -> plan.Move:
        grow = events.Grow(request=RequestId(0), pages=6)
        decisions = self.machine.step(grow).decisions
        (move,) = [each for each in decisions if isinstance(each, plan.Move)]
        assert (move.source, move.target) == (LEFT, RIGHT)
        return move

    def measure(self, *, nbytes: int, seconds: float) -> None:
        self.carriage.measure(
            LinkMeasured(source=LEFT, device=RIGHT, nbytes=nbytes, seconds=seconds)
        )

    def begun(self) -> list[Mode]:
        return [mode for _, mode in self.carriage.begin()]


def test_a_move_begins_once_its_target_is_open() -> None:
    fleet = Fleet()
    move = fleet.overflow()
    fleet.carriage.ask(move)
    assert not fleet.carriage.is_asked
    fleet.carriage.open(RIGHT)
    assert fleet.carriage.is_asked
    assert list(fleet.carriage.begin()) == [(move, Mode.KV)]
    assert not fleet.carriage.is_asked


def test_moves_to_a_target_that_closes_before_it_opened_are_forgotten() -> None:
    fleet = Fleet()
    fleet.carriage.ask(fleet.overflow())
    fleet.carriage.close(RIGHT)
    fleet.carriage.open(RIGHT)
    assert not fleet.carriage.is_asked


def test_a_target_that_has_closed_is_waited_for_again() -> None:
    fleet = Fleet()
    fleet.carriage.open(RIGHT)
    fleet.carriage.close(RIGHT)
    fleet.carriage.ask(fleet.overflow())
    assert not fleet.carriage.is_asked


def test_a_move_that_has_ended_meanwhile_does_not_begin() -> None:
    fleet = Fleet()
    fleet.carriage.open(RIGHT)
    move = fleet.overflow()
    fleet.carriage.ask(move)
    fleet.machine.step(events.MoveAborted(move=move.move))
    assert fleet.begun() == []


@pytest.mark.parametrize("is_used_before", [False, True])
def test_over_a_slow_link_tokens_go_instead_of_pages(is_used_before: bool) -> None:
    fleet = Fleet()
    fleet.carriage.open(RIGHT)
    move = fleet.overflow()
    if is_used_before:
        fleet.carriage.ask(move)
        assert fleet.begun() == [Mode.KV]  # as fast as anybody likes
    fleet.measure(nbytes=1_000, seconds=1.0)
    fleet.carriage.renew()
    fleet.carriage.ask(move)
    assert fleet.begun() == [Mode.TOKENS]


def test_a_link_is_as_fast_as_the_latest_of_several_measurements() -> None:
    fleet = Fleet(prefill_tokens_per_s=1_000.0)
    fleet.carriage.open(RIGHT)
    fleet.measure(nbytes=1_000, seconds=1.0)
    for _ in range(40):
        fleet.measure(nbytes=100_000_000, seconds=1.0)
    fleet.carriage.ask(fleet.overflow())
    assert fleet.begun() == [Mode.KV]


def test_one_fast_measurement_does_not_hide_many_slow_ones() -> None:
    fleet = Fleet(prefill_tokens_per_s=60_000.0)
    fleet.carriage.open(RIGHT)
    fleet.measure(nbytes=1_000, seconds=1.0)
    fleet.measure(nbytes=100_000_000, seconds=1.0)  # 0.3 of that: 30 MB a second
    fleet.carriage.ask(fleet.overflow())
    assert fleet.begun() == [Mode.TOKENS]  # 0.07% of the target, not 0.13% of the link


def test_a_measurement_without_time_says_nothing() -> None:
    fleet = Fleet()
    fleet.carriage.open(RIGHT)
    fleet.measure(nbytes=1_000, seconds=0.0)
    fleet.measure(nbytes=1_000, seconds=math.nan)
    fleet.carriage.ask(fleet.overflow())
    assert fleet.begun() == [Mode.KV]


def test_a_target_without_time_to_prefill_gets_pages_however_slow_the_link() -> None:
    fleet = Fleet(prefill_tokens_per_s=1.0)
    fleet.carriage.open(RIGHT)
    fleet.measure(nbytes=1_000, seconds=1.0)
    fleet.carriage.ask(fleet.overflow())
    assert fleet.begun() == [Mode.KV]
