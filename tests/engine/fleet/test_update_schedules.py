"""Schedules of updates, rests, moves and losses: each token is of its weights."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mell_jax.engine.admin import (
    Command,
    Pause,
    Resume,
    Sleep,
    Wake,
)
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import FinishReason
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.transfer import Mode
from tests.engine.fleet.versioned import (
    Record,
    greedy,
    run,
    update,
    watched_fleet,
)
from tests.toy import Transcript, submit

UPDATES = st.sampled_from(["keep", "keep", "restart", "abort", "streamed"])
RESTS = st.sampled_from(
    ["pause", "resume", "sleep", "sleep when done", "deep sleep", "wake"]
)
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 6),  # steps before it
        st.one_of(UPDATES, RESTS, st.integers(0, 5), st.integers(0, 5)),
    ),
    min_size=4,
    max_size=16,
)
CONFIGS = st.builds(
    FleetConfig,
    mode=st.sampled_from([None, Mode.KV, Mode.TOKENS]),
    parking=st.sampled_from(["pool", "weights"]),
    fault=st.builds(
        Fault,
        move_every=st.sampled_from([None, 1, 2]),
        raise_on=st.one_of(
            st.none(),
            st.tuples(st.integers(0, 2).map(DeviceGroupId), st.integers(3, 30)),
        ),
    ),
)


COMMANDS: Mapping[str, Command] = {
    "pause": Pause(),
    "resume": Resume(),
    "sleep": Sleep(level=1),
    "sleep when done": Sleep(mode="wait"),
    "deep sleep": Sleep(level=2),
    "wake": Wake(),
}


def prompt_of(kind: int) -> list[int]:
    """Prompts that begin alike, of one to several pages and chunks."""
    return [(n * 3 + 1) % 11 for n in range(10 + 13 * kind)] + [kind]


def play(
    fleet: Fleet, record: Record, events: Sequence[tuple[int, str | int]]
) -> Transcript:
    """Plays events between steps, and checks every token at the end."""
    seen, prompts = Transcript(), {}
    for steps, event in events:
        for _ in range(steps):
            seen.read(fleet.step())
            fleet.machine.ledger.check()
        if isinstance(event, int):
            for _ in range(2):
                handle = len(prompts)
                prompts[handle] = prompt_of(event)
                submit(fleet, prompts[handle], handle=handle, params=greedy(25))
        elif event == "streamed":
            update(fleet, record, is_streamed=True)
        elif event in COMMANDS:
            fleet.administer(COMMANDS[event])
        else:
            update(fleet, record, event)  # type: ignore[arg-type]
        fleet.machine.ledger.check()
    fleet.administer(Wake())
    fleet.administer(Resume())
    run(fleet, seen)
    record.check(seen, prompts=prompts)
    for handle in prompts:
        end = seen.finished[handle]
        assert end.reason in (FinishReason.LENGTH, FinishReason.ABORT), end
        if end.reason is FinishReason.LENGTH:
            assert len(seen.tokens[handle]) == 25
    assert fleet.conductor.is_at_rest
    load = fleet.load()
    assert load.used_pages == 0
    return seen


def play_anew(
    events: Sequence[tuple[int, str | int]], config: FleetConfig, num_pages: int
) -> None:
    record = Record()
    fleet = watched_fleet(
        record, devices=3, config=config, num_pages=num_pages, rows=4, growth=0.1
    )
    play(fleet, record, events)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(  # a move that begins while others are called off
    events=[(3, 1), (6, "keep"), (3, 1), (6, "wake"), (3, "restart")],
    config=FleetConfig(mode=Mode.TOKENS, fault=Fault(move_every=2)),
    num_pages=9,
)
@example(  # a policy that moves a row to and fro, which stands still
    events=[
        *((1, "streamed"), (2, "abort"), (5, "resume"), (2, "streamed"), (0, 2)),
        *((4, 0), (4, "keep"), (3, 5), (2, "keep"), (5, "pause"), (0, 5), (3, 0)),
        *((1, 3), (5, "deep sleep")),
    ],
    config=FleetConfig(mode=Mode.KV, fault=Fault(move_every=2)),
    num_pages=9,
)
@given(events=EVENTS, config=CONFIGS, num_pages=st.sampled_from([9, 14, 33]))
def test_every_token_is_of_its_weights(
    events: Sequence[tuple[int, str | int]], config: FleetConfig, num_pages: int
) -> None:
    play_anew(events, config, num_pages)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=EVENTS, config=CONFIGS, num_pages=st.sampled_from([9, 14, 33]))
def test_every_token_is_of_its_weights_at_length(
    events: Sequence[tuple[int, str | int]], config: FleetConfig, num_pages: int
) -> None:
    play_anew(events, config, num_pages)
