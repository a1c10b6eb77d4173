"""Front ends that are lost: their streams end, all others go on, and nothing is left.

head (engine's side of front ends) --- front end 1, front end 2 --- clients
"""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.hosts.clients import Wave
from tests.hosts.grpc_clients import GrpcGot, GrpcWave
from tests.hosts.processes import living, wait_for
from tests.hosts.proof import (
    WANTED,
    ask_undisturbed,
    check_begun,
    check_rest,
    check_same,
)
from tests.hosts.real_hosts import RealFleet, real_fleet

END_S = 15.0
COUNT, TOKENS = 8, 300  # of streams over gRPC
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_a_killed_front_end_takes_its_own_streams_along_and_no_other(
    tmp_path: Path, cache: Path
) -> None:
    with real_fleet(tmp_path, cache=cache, frontends=2, far=False) as fleet:
        undisturbed = ask_undisturbed(fleet)
        wanted = GrpcWave(fleet.grpc, count=COUNT, tokens=TOKENS).end()
        assert {got.code for got in wanted} == {"OK"}
        wave = Wave(fleet.http, WANTED)
        others = GrpcWave(fleet.grpc, count=COUNT, tokens=TOKENS)
        wave.wait_under_way()
        killed = fleet.hit("front end", with_signal=signal.SIGKILL)
        came = wave.end()
        lost = [i for i, got in enumerate(came) if not got.is_whole]
        assert 0 < len(lost) < len(came)
        assert all(came[i].error for i in lost)
        check_begun(came, undisturbed)
        kept = [i for i in range(len(came)) if i not in lost]
        check_same([came[i] for i in kept], [undisturbed[i] for i in kept])
        check_ends(others.end(), wanted)
        assert wait_for(lambda: len(front_ends(fleet) - {killed}) == 2, most_s=60.0)
        assert wait_for(fleet.is_up, most_s=60.0)
        check_same(Wave(fleet.http, WANTED).end(), undisturbed)
        check_rest(fleet)
        assert not fleet.end()


def front_ends(fleet: RealFleet) -> set[int]:
    """Returns the processes that talk to clients."""
    return fleet.of_kind("processes.child")


def check_ends(came: Sequence[GrpcGot], wanted: Sequence[GrpcGot]) -> None:
    """Each stream is whole, or has ended as a retry may mend; no token differs."""
    for got, whole in zip(came, wanted, strict=True):
        assert got.code in ("OK", "UNAVAILABLE"), got
        is_cut = got.code == "UNAVAILABLE"
        count = len(got.tokens) if is_cut else TOKENS
        assert got.tokens == whole.tokens[:count]


def test_all_processes_end_soon_after_a_killed_head_and_say_how_far_streams_were(
    tmp_path: Path, cache: Path
) -> None:
    """Host c is nobody's child: it waits for another controller until it is told."""
    with real_fleet(tmp_path, cache=cache) as fleet:
        undisturbed = ask_undisturbed(fleet)
        address = f"unix:{tmp_path / 'grpc'}"
        wanted = GrpcWave(address, count=COUNT, tokens=TOKENS).end()
        wave = Wave(fleet.http, WANTED)
        others = GrpcWave(address, count=COUNT, tokens=TOKENS)
        wave.wait_under_way()
        far = fleet.pids()["c"]
        left = set(fleet.pids().values()) - {fleet.head.pid, far}
        assert len(left) == 4  # controller, two hosts, a front end
        fleet.hit("head", with_signal=signal.SIGKILL)
        fleet.head.wait()
        assert wait_for(lambda: not living(left), most_s=END_S), living(left)
        came = wave.end()
        assert any(got.error for got in came)
        assert all(got.is_whole or got.error for got in came)
        check_begun(came, undisturbed)
        check_ends(others.end(), wanted)
        cut = [got for got in others.got if got.code == "UNAVAILABLE"]
        assert cut
        for got in cut:
            assert f"; {len(got.tokens)} tokens had been sent" in got.details
        assert fleet.left() == {far}
        os.kill(far, signal.SIGTERM)
        assert wait_for(lambda: not fleet.left(), most_s=60.0)
