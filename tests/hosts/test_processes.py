"""A fleet of real processes: whatever becomes of one, streams go on, to the token.

All tests but the first are slow; `--fault_minutes` says for how long faults come at
random.
"""

import io
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from mell_jax import top
from tests.hosts.clients import Got, Wave, bodies, fetch, first_moment
from tests.hosts.processes import living, resident_mib, wait_for
from tests.hosts.real_hosts import START_S, RealFleet, has_networks, real_fleet

TOKENS = 100
WANTED = bodies(64, tokens=TOKENS)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one fleet has compiled, others find."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[RealFleet]:
    with real_fleet(tmp_path_factory.mktemp("fleet"), cache=cache) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def undisturbed(fleet: RealFleet) -> list[Got]:
    """What clients get while nothing happens."""
    wanted = Wave(fleet.http, WANTED).end()
    assert {got.error for got in wanted} == {""}
    assert all(got.is_whole for got in wanted)
    return wanted


def check_same(came: list[Got], undisturbed: list[Got]) -> None:
    """All streams are whole, and no token differs."""
    assert [got.answer for got in came] == [got.answer for got in undisturbed]
    for got, wanted in zip(came, undisturbed, strict=True):
        assert got.logprobs == pytest.approx(wanted.logprobs, abs=1e-3)


def check_rest(fleet: RealFleet) -> None:
    """Nothing runs, and all pages are free, soon after."""
    assert wait_for(fleet.is_at_rest, most_s=20.0), fetch(fleet.http, "/metrics")


def disturb(
    fleet: RealFleet, undisturbed: list[Got], *, by: Callable[[], object]
) -> float:
    """Asks for all streams, does something meanwhile; returns the longest gap."""
    wave = Wave(fleet.http, WANTED)
    time.sleep(0.8)
    by()
    came = wave.end()
    check_same(came, undisturbed)
    check_rest(fleet)
    return max(got.gap_s for got in came)


@pytest.mark.parametrize("name", ["a", "controller", "c"])
def test_a_killed_process_costs_no_stream(
    fleet: RealFleet, undisturbed: list[Got], name: str
) -> None:
    disturb(fleet, undisturbed, by=lambda: fleet.hit(name, with_signal=signal.SIGKILL))
    bring_back(fleet)
    check_same(Wave(fleet.http, WANTED).end(), undisturbed)


def bring_back(fleet: RealFleet) -> None:
    """Waits until all processes live again, and serve."""
    if "c" not in fleet.pids():
        fleet.join_far()
    fleet.wait_whole("a", "b", "c", "controller")


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


def test_streams_of_a_killed_front_end_end_and_others_begin(
    tmp_path: Path, cache: Path, undisturbed: list[Got]
) -> None:
    with real_fleet(tmp_path, cache=cache, far=False) as fleet:
        wave = Wave(fleet.http, WANTED)
        time.sleep(0.8)
        fleet.hit("front end", with_signal=signal.SIGKILL)
        lost = [got for got in wave.end() if not got.is_whole]
        assert lost
        assert all(got.error for got in lost if not got.ends)
        assert wait_for(lambda: "front end" in fleet.pids(), most_s=60.0)
        assert wait_for(fleet.is_up, most_s=60.0)
        check_same(Wave(fleet.http, WANTED).end(), undisturbed)
        check_rest(fleet)


def test_all_processes_end_soon_after_a_killed_head(
    tmp_path: Path, cache: Path
) -> None:
    with real_fleet(tmp_path, cache=cache, far=False) as fleet:
        wave = Wave(fleet.http, WANTED)
        time.sleep(0.8)
        others = set(fleet.pids().values()) - {fleet.head.pid}
        assert len(others) == 4  # controller, two hosts, a front end
        fleet.hit("head", with_signal=signal.SIGKILL)
        fleet.head.wait()
        assert wait_for(lambda: not living(others), most_s=15.0), living(others)
        assert not any(got.is_whole for got in wave.end() if got.error)


@needs_networks
def test_a_full_disk_costs_no_stream(
    tmp_path: Path, cache: Path, undisturbed: list[Got]
) -> None:
    """The log and what is compiled are on a disk that fills up."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(disk)]
    subprocess.run(mount, check=True)
    try:
        shutil.copytree(cache, disk / "compiled")
        with real_fleet(disk, cache=disk / "compiled", far=False) as fleet:
            fill(disk)
            before = fleet.pids()["a"]
            disturb(
                fleet,
                undisturbed,
                by=lambda: fleet.hit("a", with_signal=signal.SIGKILL),
            )
            assert wait_for(
                lambda: fleet.pids().get("a", before) != before, most_s=60.0
            )
            again = fleet.pids()["a"]
            time.sleep(30.0)  # to start
            assert fleet.pids().get("a") == again
            check_same(Wave(fleet.http, WANTED).end(), undisturbed)
            assert not fleet.end()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> None:
    """Leaves no byte on a disk."""
    with (disk / "full").open("wb", buffering=0) as file:
        for size in (2**20, 2**10, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def test_faults_at_random_cost_no_stream_and_no_memory(
    fleet: RealFleet, undisturbed: list[Got], pytestconfig: pytest.Config
) -> None:
    rng, faults = random.Random(19), Faults(fleet)
    end_s = time.monotonic() + 60.0 * pytestconfig.getoption("--fault_minutes")
    head, waves = fleet.pids()["head"], 0
    memory = []
    while time.monotonic() < end_s:
        wave = Wave(fleet.http, WANTED)
        time.sleep(rng.uniform(0.0, 1.5))
        told = faults.one(rng)
        came = wave.end()
        print(f"{waves}: {told}, gap {max(got.gap_s for got in came):.2f} s")
        check_same(came, undisturbed)
        memory.append(resident_mib(head))
        waves += 1
    faults.mend()
    bring_back(fleet)
    check_same(Wave(fleet.http, WANTED).end(), undisturbed)
    check_rest(fleet)
    print(f"{waves} waves, head from {memory[0]:.0f} to {memory[-1]:.0f} MiB")
    early = memory[min(len(memory) - 1, 5)]
    assert memory[-1] < early + 64.0, memory
    assert not fleet.end()


_SLOW = ("rate", "4mbit", "burst", "16kb", "latency", "2s")


class Faults:
    """Faults of all kinds, of any process whose loss costs no stream."""

    def __init__(self, fleet: RealFleet) -> None:
        self._fleet = fleet

    def one(self, rng: random.Random) -> str:
        """Does something to somebody who is there; returns what."""
        fleet, present = self._fleet, self._fleet.pids()
        if "c" not in present:
            fleet.join_far()
            return "c joined"
        name = rng.choice([n for n in ("a", "b", "c", "controller") if n in present])
        kinds = ["kill", "stop", *(["cut", "slow"] if fleet.networks else [])]
        kind = rng.choice(kinds)
        seconds = rng.choice([0.3, 1.0, 3.0])
        match kind:
            case "kill":
                fleet.hit(name, with_signal=signal.SIGKILL)
                return f"{name} killed"
            case "stop":
                pid = fleet.hit(name, with_signal=signal.SIGSTOP)
                time.sleep(seconds)
                os.kill(pid, signal.SIGCONT)
                return f"{name} stopped for {seconds} s"
            case "cut":
                assert fleet.networks is not None
                fleet.networks.pull()
                time.sleep(seconds)
                fleet.networks.plug()
                return f"link cut for {seconds} s"
        assert fleet.networks is not None
        assert fleet.networks.slow("tbf", *_SLOW)
        time.sleep(seconds)
        fleet.networks.hasten()
        return f"link slow for {seconds} s"

    def mend(self) -> None:
        """Ends what lasts."""
        if self._fleet.networks is not None:
            self._fleet.networks.plug()
