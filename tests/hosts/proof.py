"""What has to be so of a real fleet, whatever becomes of its processes."""

from collections.abc import Callable, Sequence

import pytest

from tests.hosts.clients import Got, Wave, bodies, fetch
from tests.hosts.processes import wait_for
from tests.hosts.real_hosts import RealFleet

WANTED = bodies(64, tokens=100)
REST_S = 20.0


def ask_undisturbed(fleet: RealFleet) -> list[Got]:
    """Returns what clients get while nothing happens."""
    wanted = Wave(fleet.http, WANTED).end()
    assert {got.error for got in wanted} == {""}
    assert all(got.is_whole for got in wanted)
    return wanted


def check_same(came: Sequence[Got], undisturbed: Sequence[Got]) -> None:
    """All streams are whole, and no token differs."""
    pairs = zip(came, undisturbed, strict=True)
    others = [(got, wanted) for got, wanted in pairs if got.answer != wanted.answer]
    if others:
        pytest.fail(f"{len(others)} of {len(came)} differ, such as {others[0]}")
    for got, wanted in zip(came, undisturbed, strict=True):
        assert got.logprobs == pytest.approx(wanted.logprobs, abs=1e-3)


def check_begun(came: Sequence[Got], undisturbed: Sequence[Got]) -> None:
    """Streams that were cut have a beginning of what they should have got."""
    for got, wanted in zip(came, undisturbed, strict=True):
        for choice, text in got.texts.items():
            assert wanted.texts[choice].startswith(text)
        assert got.tokens == wanted.tokens[: len(got.tokens)]


def check_rest(fleet: RealFleet) -> None:
    """Nothing runs, and all pages are free, soon after."""
    assert wait_for(fleet.is_at_rest, most_s=REST_S), fetch(fleet.http, "/metrics")


def disturb(
    fleet: RealFleet, undisturbed: Sequence[Got], *, by: Callable[[], object]
) -> None:
    """Asks for all streams, and does something once they are under way."""
    wave = Wave(fleet.http, WANTED)
    wave.wait_under_way()
    by()
    check_same(wave.end(), undisturbed)
    check_rest(fleet)


def bring_back(fleet: RealFleet) -> None:
    """Waits until all processes live again."""
    if "c" not in fleet.pids():
        fleet.join_far()
    fleet.wait_whole("a", "b", "c", "controller")
