"""The horizon rises with every answer, so that nobody remembers releases for ever."""

import pytest

from mell_jax.scheduler.ids import CopyId, DeviceGroupId, RequestId
from mell_jax.scheduler.migration import effects, events, messages
from mell_jax.scheduler.migration.controller import Controller
from mell_jax.scheduler.migration.source import StagingLimits

HERE = DeviceGroupId(0)
ONE, TWO = RequestId(1), RequestId(2)


def sent(controller: Controller, event) -> list[messages.Message]:
    done = controller.step(event)
    return [effect.message for effect in done if isinstance(effect, effects.Send)]


def start(controller: Controller, request: RequestId) -> messages.Start:
    order = events.StartRequest(request=request, device=HERE, known=3)
    (message,) = sent(controller, order)
    assert isinstance(message, messages.Start)
    return message


def end(controller: Controller, request: RequestId) -> messages.Release:
    (message,) = sent(controller, events.End(request=request))
    assert isinstance(message, messages.Release)
    return message


@pytest.fixture
def controller() -> Controller:
    made = Controller()
    made.step(events.AddDevice(device=HERE))
    return made


def test_an_opening_without_an_answer_holds_the_horizon_down(controller) -> None:
    first, second = start(controller, ONE), start(controller, TWO)
    assert (first.copy_id, second.copy_id) == (1, 2)
    assert (first.horizon, second.horizon) == (1, 1)
    controller.step(messages.Started(request=ONE, copy_id=first.copy_id))
    assert end(controller, ONE).horizon == 2
    controller.step(messages.Started(request=TWO, copy_id=second.copy_id))
    assert end(controller, TWO).horizon == controller.next_copy_id - 1


def test_a_release_answers_an_opening_that_was_never_answered(controller) -> None:
    first = start(controller, ONE)
    assert end(controller, ONE).horizon == first.copy_id
    controller.step(messages.Released(request=ONE, copy_id=first.copy_id))
    assert not controller.owners
    second = start(controller, TWO)
    assert second.horizon == second.copy_id > first.copy_id


def test_a_device_may_come_back_once_it_was_lost(controller) -> None:
    with pytest.raises(ValueError, match="device 0 is in the fleet already"):
        controller.step(events.AddDevice(device=HERE))
    start(controller, ONE)
    controller.step(events.LoseDevice(device=HERE))
    assert controller.step(events.LoseDevice(device=HERE)) == []
    controller.step(events.AddDevice(device=HERE))
    again = start(controller, ONE)
    assert again.horizon == again.copy_id == CopyId(controller.next_copy_id - 1)


def test_moves_are_staged_as_the_defaults_say() -> None:
    limits = StagingLimits(page_tokens=1)
    assert (limits.max_stages, limits.tail_pages) == (3, 2)
    StagingLimits(page_tokens=1, max_stages=1, tail_pages=1)
    for name in ("page_tokens", "max_stages", "tail_pages"):
        with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
            StagingLimits(**{"page_tokens": 1, name: 0})


def test_what_was_placed_and_never_started_has_nothing_to_release(controller) -> None:
    first = start(controller, ONE)
    controller.step(messages.Started(request=ONE, copy_id=first.copy_id))
    assert len(sent(controller, events.PreemptRequest(request=ONE))) == 1
    order = events.StartRequest(request=ONE, device=HERE, known=3)
    assert sent(controller, order) == []  # it waits for the release of the first copy
    assert sent(controller, events.End(request=ONE)) == []
    controller.step(messages.Released(request=ONE, copy_id=first.copy_id))
    assert not controller.owners
