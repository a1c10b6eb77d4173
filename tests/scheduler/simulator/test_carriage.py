"""Moves carried over links, with times done by hand."""

from collections import defaultdict
from dataclasses import dataclass

from mell_jax.scheduler.ids import DeviceGroupId, ModelId, MoveId, RequestId
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.simulator.carriage import Carriage
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.transfer import Mode, MoveDemand


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A move that was begun; it commits at `ends_s`."""

    move: int
    mode: Mode
    tokens: int
    ends_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What became of the moves that were asked for together."""

    begun: tuple[Begun, ...]
    deferrals: int
    violations: int


class Fleet:
    """Links of 1,000 bytes/s, 10 bytes a token, 20 tokens/s of prefill for replays."""

    def __init__(self, *, weight: float = 1.0, ready_s: float = 0.0) -> None:
        settings = Settings(
            capacity_tokens=1000,
            page_tokens=1,
            prefill_tokens_per_s=80.0,
            prefill_share=0.25,
            link_gbps=8e-6,
            kv_bytes_per_token=10,
            weights={ONLY_MODEL: 1.0, ModelId("other"): weight},
        )
        self.carriage = Carriage(settings, ready_s=defaultdict(lambda: ready_s))
        self.tokens: dict[MoveId, int] = {}
        self.models: dict[MoveId, ModelId] = {}

    def ask(
        self,
        move: int,
        *,
        tokens: int,
        source: int = 0,
        target: int = 1,
        is_urgent: bool = False,
        model: ModelId = ONLY_MODEL,
    ) -> None:
        self.tokens[MoveId(move)] = tokens
        self.models[MoveId(move)] = model
        asked = plan.Move(
            move=MoveId(move),
            request=RequestId(move),
            source=DeviceGroupId(source),
            target=DeviceGroupId(target),
            pages=tokens,
            is_urgent=is_urgent,
        )
        self.carriage.ask(asked)

    def begin(self, now_s: float) -> Batch:
        division = self.carriage.divide(self._demand_of)
        return Batch(
            begun=tuple(
                begun(
                    demand.move.move,
                    demand.tokens,
                    self.carriage.begin(demand, mode=mode, now_s=now_s),
                    mode,
                )
                for demand, mode in division.begun
            ),
            deferrals=len(division.deferred),
            violations=division.violations,
        )

    def _demand_of(self, move: plan.Move) -> MoveDemand | None:
        tokens = self.tokens.get(move.move)
        if tokens is None:
            return None
        return self.carriage.demand(move, model=self.models[move.move], tokens=tokens)


def begun(move: int, tokens: int, ends_s: float, mode: Mode = Mode.KV) -> Begun:
    return Begun(move=move, mode=mode, tokens=tokens, ends_s=ends_s)


def test_copies_share_a_link_one_after_the_other() -> None:
    fleet = Fleet()
    fleet.ask(0, tokens=40, target=1)
    fleet.ask(1, tokens=50, target=2)
    fleet.ask(2, tokens=90, source=2, target=3)  # the other way: its link is free
    assert fleet.begin(0.0).begun == (
        begun(0, 40, 0.4),
        begun(1, 50, 0.9),
        begun(2, 90, 0.9),
    )


def test_what_no_link_carries_is_replayed_in_turn_at_the_target() -> None:
    fleet = Fleet()
    fleet.ask(0, tokens=96, target=1)  # leaves 40 bytes of the link
    fleet.ask(1, tokens=8, target=1)  # 32 bytes, then 8 tokens at 80 a second
    batch = fleet.begin(0.0)
    assert batch.begun[0] == begun(0, 96, 0.96)
    assert batch.begun[1].mode is Mode.TOKENS
    assert round(batch.begun[1].ends_s, 3) == 0.96 + 0.032 + 0.1
    assert (batch.deferrals, batch.violations) == (0, 0)


def test_what_fits_in_neither_begins_at_the_next_epoch() -> None:
    fleet = Fleet()
    fleet.ask(0, tokens=60)
    fleet.ask(1, tokens=60)
    batch = fleet.begin(0.0)
    assert (batch.begun, batch.deferrals) == ((begun(0, 60, 0.6),), 1)
    assert not fleet.carriage.is_asked
    fleet.carriage.renew()
    assert fleet.begin(1.0) == Batch(
        begun=(begun(1, 60, 1.6),), deferrals=0, violations=0
    )


def test_a_move_larger_than_an_epoch_is_late_and_a_violation_but_not_for_ever() -> None:
    fleet = Fleet()
    fleet.ask(0, tokens=150)
    assert fleet.begin(0.0).deferrals == 1
    fleet.carriage.renew()
    batch = fleet.begin(1.0)
    assert (batch.begun, batch.violations) == ((begun(0, 150, 2.5),), 1)


def test_a_deferred_move_whose_request_has_ended_is_forgotten() -> None:
    fleet = Fleet()
    fleet.ask(0, tokens=150)
    fleet.begin(0.0)
    fleet.tokens.clear()
    fleet.carriage.renew()
    assert fleet.begin(1.0) == Batch(begun=(), deferrals=0, violations=0)


def test_an_urgent_move_is_begun_at_once_and_before_the_rest() -> None:
    fleet = Fleet()
    fleet.ask(0, tokens=60)
    fleet.ask(1, tokens=60, is_urgent=True)
    assert fleet.begin(0.0).begun == (begun(1, 60, 0.6),)


def test_a_model_of_half_the_memory_takes_half_the_time() -> None:
    fleet = Fleet(weight=0.5)
    fleet.ask(0, tokens=60, model=ModelId("other"))
    assert fleet.begin(0.0).begun == (begun(0, 60, 0.3),)


def test_nothing_is_copied_to_a_device_that_still_loads_its_model() -> None:
    fleet = Fleet(ready_s=7.0)
    fleet.ask(0, tokens=50)
    assert fleet.begin(0.0).begun == (begun(0, 50, 7.5),)
