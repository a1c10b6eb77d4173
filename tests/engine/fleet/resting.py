"""A toy fleet that pauses and sleeps, and what is asked of it."""

from concurrent.futures import Future

from mell_jax.engine.admin import (
    Answer,
    Command,
    ServingState,
)
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import FinishReason
from mell_jax.engine.params import SamplingParams
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.toy import Transcript, expected, submit

PROMPTS = {handle: [handle + 1] * 40 for handle in range(6)}
COUNT = 30


def begin(fleet: Fleet, *handles: int, count: int = COUNT) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=count)
    for handle in handles:
        submit(fleet, PROMPTS[handle], handle=handle, params=params)


def run(fleet: Fleet, seen: Transcript) -> None:
    while fleet.has_work:
        seen.read(fleet.step())
        fleet.machine.ledger.check()


def steps(fleet: Fleet, seen: Transcript, *, count: int) -> None:
    for _ in range(count):
        seen.read(fleet.step())


def ask(fleet: Fleet, command: Command) -> Future[Answer]:
    """The answer that a command will have."""
    answer = fleet.administer(command)
    if isinstance(answer, Future):
        return answer
    done: Future[Answer] = Future()
    done.set_result(answer)
    return done


def state(answer: Future[Answer]) -> ServingState:
    found = answer.result(timeout=0)
    assert isinstance(found, ServingState)
    return found


def busy_fleet(**more: object) -> tuple[Fleet, Transcript]:
    """Six requests on two devices, in the middle of their answers."""
    fleet, seen = toy_fleet(devices=2, num_pages=17, **more), Transcript()  # type: ignore[arg-type]
    begin(fleet, *PROMPTS)
    steps(fleet, seen, count=5)
    assert len(fleet.instances) == 2
    return fleet, seen


def assert_all_said(seen: Transcript, *handles: int) -> None:
    for handle in handles:
        assert seen.tokens[handle] == expected(PROMPTS[handle], count=COUNT)
        assert seen.finished[handle].reason is FinishReason.LENGTH
