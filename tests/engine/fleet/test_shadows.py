"""Shadows hear what happens to a fleet, cost little, and disturb nobody."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from mell_jax.engine.fleet import shadows as module
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet.shadows import (
    CALM_S,
    LATE_S,
    MOST_STEP,
    MOST_WAITING,
    SAVED_S,
    SHARE,
    SLICE_S,
    Shadows,
)
from mell_jax.engine.params import SamplingParams
from mell_jax.events import LOGGER_NAME
from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.placement.shadow import Shadow
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.toy import expected, submit

MODELS = {events.ONLY_MODEL: ModelSpec(capacity_pages=10)}
LONG = SamplingParams(temperature=0.0, max_tokens=60)


class Processor:
    """Seconds that a thread has computed: so many more at each look."""

    def __init__(self, look_s: float = 0.0) -> None:
        self.now_s = 0.0
        self.look_s = look_s

    def __call__(self) -> float:
        self.now_s += self.look_s
        return self.now_s


def made(*policies: str, clock: Any = None) -> Shadows:
    return Shadows(
        MODELS,
        policies=policies or ("best_fit",),
        config=PolicyConfig(),
        clock=clock or Processor(),
    )


def hear(shadows: Shadows, *heard: events.Event, now_s: float = 0.0) -> None:
    for event in heard:
        shadows.hear(event, plan.NOTHING, now_s=now_s)


def devices(count: int) -> Iterator[events.Event]:
    return (events.DeviceAdded(device=DeviceGroupId(n)) for n in range(count))


def arrivals(count: int, *, pages: int) -> Iterator[events.Event]:
    return (events.Arrive(request=RequestId(n), pages=pages) for n in range(count))


def test_what_is_filed_is_told_in_the_next_slice() -> None:
    shadows = made("best_fit", "load_balance")
    hear(shadows, *devices(3), *arrivals(2, pages=6), now_s=2.0)
    assert [view.devices for view in shadows.views(now_s=2.0)] == [0, 0]
    shadows.work(now_s=2.0)
    assert not shadows.is_behind
    views = shadows.views(now_s=5.0)
    assert [(v.policy, v.devices, v.device_s) for v in views] == [
        ("best_fit", 2, 6.0),
        ("load_balance", 2, 6.0),
    ]
    assert not any(view.is_over for view in views)


def test_no_slice_is_longer_than_a_step_can_wait() -> None:
    clock = Processor(look_s=0.0003)  # for eight events and two looks at the clock
    shadows = made(clock=clock)
    hear(shadows, *devices(100))
    shadows.work(now_s=1.0)
    assert shadows.is_behind
    (view,) = shadows.views(now_s=1.0)
    assert SLICE_S <= view.cost_s < SLICE_S + 2 * clock.look_s + 1e-9


def test_over_time_a_shadow_costs_a_hundredth_of_a_core() -> None:
    shadows = made(clock=Processor(look_s=0.0005))
    hear(shadows, *devices(20_000))
    for step in range(1000):
        shadows.work(now_s=0.01 * step)
    assert shadows.is_behind
    (view,) = shadows.views(now_s=10.0)
    allowed_s = SHARE * 10.0 + SAVED_S
    assert 0.9 * allowed_s < view.cost_s < allowed_s + SLICE_S + 0.001


def growth(*pages: int) -> Iterator[events.Event]:
    return (events.Grow(request=RequestId(0), pages=count) for count in pages)


def test_who_is_late_hears_of_growth_by_larger_steps_until_all_is_calm() -> None:
    shadows = made(clock=Processor())
    (one,) = shadows._all
    hear(shadows, *devices(1), *arrivals(1, pages=1), now_s=0.0)
    shadows.work(now_s=LATE_S + 0.1)  # when its turn comes it is late already
    hear(shadows, *growth(2, 3), now_s=1.0)
    assert len(shadows._waiting) == 1
    shadows.work(now_s=1.0)
    account = one.shadow._ledger.requests[RequestId(0)]
    assert account.pages == 2
    shadows.work(now_s=1.0 + CALM_S)
    hear(shadows, *growth(4, 5), now_s=1.0 + CALM_S)
    shadows.work(now_s=1.0 + CALM_S)
    assert account.pages == 5


def test_steps_have_a_bound() -> None:
    shadows = made(clock=Processor(look_s=1.0))  # nothing is ever done
    hear(shadows, *devices(1), now_s=0.0)
    for second in range(1, 40):
        shadows.work(now_s=float(second))
        hear(shadows, *devices(1), now_s=0.0)
    assert shadows._step_pages == MOST_STEP


def test_a_request_that_the_fleet_rejects_is_over_in_the_shadow() -> None:
    shadows = made()
    hear(shadows, *devices(1), *arrivals(2, pages=8))
    refused = plan.Plan(
        decisions=(
            plan.Reject(request=RequestId(1), reason=plan.RejectReason.TOO_LARGE),
        )
    )
    shadows.hear(events.Grow(request=RequestId(1), pages=11), refused, now_s=0.0)
    shadows.work(now_s=0.0)
    (one,) = shadows._all
    assert set(one.shadow._ledger.requests) == {0}


def fail_on_finish(self: Shadow, event: events.Event, *, now_s: float) -> None:
    if isinstance(event, events.Finish):
        raise RuntimeError("a bug of a policy")


def test_one_that_raises_ends_alone_and_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shadows = made("best_fit", "reserve_peak")
    broken = shadows._all[0].shadow
    tell = Shadow.tell

    def tell_or_fail(self: Shadow, event: events.Event, *, now_s: float) -> None:
        (fail_on_finish if self is broken else tell)(self, event, now_s=now_s)

    monkeypatch.setattr(Shadow, "tell", tell_or_fail)
    hear(shadows, *devices(2), *arrivals(2, pages=6))
    hear(shadows, events.Finish(request=RequestId(0)))
    with caplog.at_level(logging.INFO, logger=LOGGER_NAME):
        shadows.work(now_s=0.0)
    (record,) = caplog.records
    assert record.getMessage() == "the shadow policy best_fit has ended: it failed"
    assert record.exc_info is not None
    ended, other = shadows.views(now_s=0.0)
    assert (ended.is_over, other.is_over, other.devices) == (True, False, 1)
    hear(shadows, events.Arrive(request=RequestId(2), pages=6))
    shadows.work(now_s=1.0)
    assert [view.devices for view in shadows.views(now_s=1.0)] == [ended.devices, 2]


def test_one_that_never_catches_up_ends_and_holds_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shadows = made()
    hear(shadows, *devices(MOST_WAITING + 1))
    with caplog.at_level(logging.INFO, logger=LOGGER_NAME):
        shadows.work(now_s=0.0)
    assert f"{MOST_WAITING + 1} events wait" in caplog.text
    hear(shadows, *arrivals(1, pages=1))
    assert not shadows.is_behind
    assert shadows.views(now_s=9.0)[0].is_over


def tokens_of(fleet: Fleet) -> dict[int, list[int]]:
    """Runs a fleet dry; the tokens of each stream."""
    tokens: dict[int, list[int]] = {}
    while fleet.has_work:
        frame = fleet.step()
        if frame is not None:
            for handle, token in zip(frame.handles, frame.tokens, strict=True):
                tokens.setdefault(int(handle), []).append(int(token))
    return tokens


def test_a_fleet_has_shadows_that_hold_devices_and_change_no_token() -> None:
    policies = ("best_fit", "reserve_peak")
    prompts = [[n + 1] * (n * 7 % 50 + 1) for n in range(16)]
    fleet = toy_fleet(
        num_pages=14, config=FleetConfig(shadow_policies=policies, epoch_s=0.5)
    )
    for handle, prompt in enumerate(prompts):
        submit(fleet, prompt, handle=handle, params=LONG)
    fleet.conductor.shadows.work(now_s=0.0)
    held = [view.devices for view in fleet.conductor.shadows.views(now_s=0.0)]
    assert held == [3, 3]
    assert tokens_of(fleet) == {n: expected(p, count=60) for n, p in enumerate(prompts)}
    fleet.step()  # hears of the last end
    view = fleet.load().fleet
    assert view is not None
    assert [(v.policy, v.devices, v.is_over) for v in view.shadows] == [
        (name, 1, False) for name in policies
    ]
    for one in fleet.conductor.shadows._all:
        one.shadow.check()


def test_a_shadow_that_fails_costs_no_stream_a_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module.Shadow, "tell", fail_on_finish)
    fleet = toy_fleet()
    for handle in range(3):
        submit(fleet, [handle + 1], handle=handle, params=LONG)
    assert tokens_of(fleet) == {n: expected([n + 1], count=60) for n in range(3)}
    fleet.step()  # hears of the last end
    view = fleet.load().fleet
    assert view is not None and view.shadows[0].is_over


def test_one_device_needs_no_shadow() -> None:
    fleet = toy_fleet(devices=1)
    view = fleet.load().fleet
    assert view is not None and view.shadows == ()


def test_a_policy_that_nobody_knows_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"shadow_policies must be of .*got \['best'\]"
    ):
        FleetConfig(shadow_policies=("best_fit", "best"))
