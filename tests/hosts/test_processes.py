"""A fleet of real processes: whatever becomes of one, streams go on, to the token.

`--fault_minutes` says for how long faults come at random.
"""

import io
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from mell_jax import top
from tests.hosts.clients import Got, Wave, fetch, first_moment
from tests.hosts.faults import FaultRun
from tests.hosts.processes import wait_for
from tests.hosts.proof import (
    WANTED,
    ask_undisturbed,
    bring_back,
    check_rest,
    check_same,
    disturb,
)
from tests.hosts.real_hosts import START_S, RealFleet, has_networks, real_fleet

MOST_GROWTH_MIB = 32.0  # of a process, once it has served a few waves
CALM_WAVES = 40

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[RealFleet]:
    with real_fleet(tmp_path_factory.mktemp("fleet"), cache=cache) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def undisturbed(fleet: RealFleet) -> list[Got]:
    return ask_undisturbed(fleet)


@pytest.mark.parametrize("name", ["a", "controller", "c"])
def test_a_killed_process_costs_no_stream(
    fleet: RealFleet, undisturbed: list[Got], name: str
) -> None:
    disturb(fleet, undisturbed, by=lambda: fleet.hit(name, with_signal=signal.SIGKILL))
    bring_back(fleet)
    check_same(Wave(fleet.http, WANTED).end(), undisturbed)


@pytest.mark.parametrize("seconds", [1.0, 6.0])
@pytest.mark.parametrize("name", ["b", "c", "controller", "head"])
def test_a_stopped_process_that_goes_on_costs_no_stream(
    fleet: RealFleet, undisturbed: list[Got], name: str, seconds: float
) -> None:
    """After 2 s (ten beats) others go on without it; then it hears of that."""

    def stop() -> None:
        pid = fleet.hit(name, with_signal=signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    disturb(fleet, undisturbed, by=stop)
    check_same(Wave(fleet.http, WANTED).end(), undisturbed)


def scraped(fleet: RealFleet) -> top.Numbers:
    return top.parse(fetch(fleet.http, "/metrics"))


def committed(seen: top.Numbers) -> float:
    return seen.total("migrations_total", outcome="committed")


def test_hosts_their_streams_and_their_moves_are_seen(
    fleet: RealFleet, undisturbed: list[Got]
) -> None:
    """Host b is told to end: its requests move away, and it is started again."""
    before = committed(scraped(fleet))
    joined = fleet.text().count("host b is at")
    disturb(fleet, undisturbed, by=lambda: fleet.hit("b", with_signal=signal.SIGTERM))
    assert wait_for(lambda: committed(scraped(fleet)) > before, most_s=60.0)
    assert wait_for(lambda: fleet.text().count("host b is at") > joined, most_s=START_S)
    assert wait_for(
        lambda: (
            {labels["host"] for labels, _ in scraped(fleet).of("host_epoch")}
            == {"a", "b", "c"}
        ),
        most_s=60.0,
    )
    console = Console(file=io.StringIO(), width=100)
    console.print(top.picture(scraped(fleet), before=None, elapsed_s=0.0))
    shown = console.file.getvalue()
    assert ", 3 hosts" in shown and "so far" in shown
    assert all(name in shown for name in ("a/0", "a/1", "b/0", "b/1", "c/0", "c/1"))
    moment = first_moment(fleet.http)
    assert {tile["name"].split("/")[0] for tile in moment["tiles"]} == {"a", "b", "c"}
    assert moment["totals"]["moves"] > 0
    assert "[host b, epoch " in fleet.text() or "[host b]" in fleet.text()


needs_networks = pytest.mark.skipif(
    not has_networks(), reason="networks of their own need root, ip and tc"
)


@needs_networks
@pytest.mark.parametrize("seconds", [1.0, 6.0])
def test_a_cut_link_costs_no_stream(
    fleet: RealFleet, undisturbed: list[Got], seconds: float
) -> None:
    networks = fleet.networks
    assert networks is not None

    def cut() -> None:
        networks.pull()
        time.sleep(seconds)
        networks.plug()

    disturb(fleet, undisturbed, by=cut)
    check_same(Wave(fleet.http, WANTED).end(), undisturbed)


@needs_networks
@pytest.mark.parametrize(
    "words",
    [
        "tbf rate 4mbit burst 16kb latency 2s",
        "tbf rate 20mbit burst 4kb limit 20kb",  # full, it loses packets
        "netem delay 100ms 40ms",
        "netem loss 5% delay 10ms",
    ],
)
def test_a_slow_link_costs_no_stream(
    fleet: RealFleet, undisturbed: list[Got], words: str
) -> None:
    networks = fleet.networks
    assert networks is not None
    if not networks.slow(*words.split()):
        pytest.skip("this machine's kernel has no netem")
    try:
        disturb(fleet, undisturbed, by=lambda: None)
    finally:
        networks.hasten()


def test_a_rolling_restart_under_load_changes_nothing(
    fleet: RealFleet, undisturbed: list[Got]
) -> None:
    for name in ("a", "b"):
        before = fleet.pids()[name]
        joined = fleet.text().count(f"host {name} is at")
        fleet.hit(name, with_signal=signal.SIGTERM)
        while fleet.text().count(f"host {name} is at") == joined:
            check_same(Wave(fleet.http, WANTED).end(), undisturbed)
        assert fleet.pids()[name] != before
    check_rest(fleet)


def test_what_an_operator_does_changes_no_token(
    fleet: RealFleet, undisturbed: list[Got]
) -> None:
    done: list[str] = []
    for seed in range(4):

        def operate(seed: int = seed) -> None:
            done.append(fleet.operate(seed=seed, seconds=1.0))

        disturb(fleet, undisturbed, by=operate)
    said = "\n".join(done)
    assert "DEVICE_STATE_DRAINING" in said or "DEVICE_STATE_DRAINED" in said, said
    assert "PolicyRequest" not in said, said
    check_same(Wave(fleet.http, WANTED).end(), undisturbed)
    check_rest(fleet)


def test_streams_that_come_and_go_cost_no_memory(
    fleet: RealFleet, undisturbed: list[Got]
) -> None:
    run = FaultRun(fleet, undisturbed, seed=0)
    for _ in range(CALM_WAVES):
        run.calm_wave()
    print(run.memory())
    growth_mib = run.growth_mib("a", "b", "c", "head", "controller", "front end")
    assert growth_mib < MOST_GROWTH_MIB


@pytest.mark.timeout(0)  # it takes as long as it is told to
def test_faults_at_random_cost_no_stream_and_no_memory(
    fleet: RealFleet, undisturbed: list[Got], pytestconfig: pytest.Config
) -> None:
    minutes = pytestconfig.getoption("--fault_minutes")
    seed = pytestconfig.getoption("--fault_seed")
    run = FaultRun(fleet, undisturbed, seed=seed)
    end_s = time.monotonic() + 60.0 * minutes
    while time.monotonic() < end_s:
        print(run.one_wave())
    run.rest()
    print(run.summary())
    assert run.growth_mib("head", "controller", "front end") < MOST_GROWTH_MIB
    assert not fleet.end()
