"""Pages by jax's own transfers, between two processes."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, final

import jax
import numpy as np
import pytest

from mell_jax.engine.fleet.page_transfer import PageTransfer
from mell_jax.engine.hosts import wires
from mell_jax.hosts.pages import transfers
from mell_jax.hosts.pages.choice import PagesBy
from mell_jax.hosts.pages.connection import dial
from mell_jax.hosts.pages.lane import Lane
from mell_jax.hosts.pages.transfers import PullError, Transfers
from mell_jax.hosts.wire import Hello, Offer
from mell_jax.scheduler.ids import CopyId, DeviceGroupId, Epoch, RequestId
from mell_jax.scheduler.migration.messages import Chunk
from mell_jax.scheduler.plan import Places
from mell_jax.scheduler.transfer import Mode
from tests.hosts.processes import wait_for
from tests.hosts.pulling import ANY, SECRET

HELLO = Hello(role="pages", name="left", epoch=Epoch(4))
SHAPE = (4, 2, 64, 8)  # four pages


@final
class Puller:
    """A process that takes pages in; `came` are the numbers that they are full of."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        self.process = process
        self.port = int(process.stdout.readline())
        self.came: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.came.append(line.strip())


@contextlib.contextmanager
def puller(*, can_pull: bool = True) -> Iterator[Puller]:
    word = "pulls" if can_pull else "does not"
    with subprocess.Popen(
        [sys.executable, "-m", "tests.hosts.pulling", word],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    ) as process:
        try:
            yield Puller(process)
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def lane_to(
    there: Puller, *, by: PagesBy, offers: Transfers | None
) -> Iterator[tuple[Lane, list[int]]]:
    failed: list[int] = []
    lane = Lane(
        "right",
        dial=lambda: dial(
            "127.0.0.1", there.port, hello=HELLO, secret=SECRET, tls=None
        ),
        failed=lambda: failed.append(1),
        pages_by=by,
        transfers=offers,
    )
    try:
        yield lane, failed
    finally:
        lane.close()


@pytest.fixture(name="offers", scope="module")
def this_side() -> Transfers:
    return Transfers(ANY)


@pytest.fixture(name="pulls", scope="module")
def other_side() -> Iterator[Puller]:
    with puller() as there:
        yield there


@pytest.fixture(name="takes", scope="module")
def other_side_without() -> Iterator[Puller]:
    with puller(can_pull=False) as there:
        yield there


def parcel(number: int) -> wires.Parcel:
    """Two arrays that are full of a number."""
    chunk = Chunk(
        request=RequestId(number),
        copy_id=CopyId(9),
        from_copy_id=CopyId(7),
        source=DeviceGroupId(1),
        mode=Mode.KV,
        first=0,
        end=128,
        is_last=False,
    )
    chunks = tuple(jax.numpy.full(SHAPE, number, np.float32) for _ in range(2))
    pages = PageTransfer(chunks=chunks, places=Places.in_order(8))
    return wires.Parcel(device=DeviceGroupId(2), message=chunk, pages=pages)


def soon(is_so: Any) -> bool:
    return wait_for(is_so, most_s=120.0)


def test_pages_are_pulled_and_kept_until_they_are(
    offers: Transfers, pulls: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[Offer] = []
    offer = offers.offer

    def noted(chunks: Any, *, with_sums: bool) -> Offer:
        offered.append(offer(chunks, with_sums=with_sums))
        assert offers.kept == 1
        return offered[-1]

    monkeypatch.setattr(offers, "offer", noted)
    with (
        puller() as there,
        lane_to(there, by="transfer", offers=offers) as (
            lane,
            failed,
        ),
    ):
        for number in (1, 2, 3):
            lane.put(parcel(number))
        assert soon(lambda: len(there.came) == 3)
        assert there.came == ["1.0", "2.0", "3.0"]
        assert soon(lambda: offers.kept == 0)
        assert [len(one.sums) for one in offered] == [8, 0, 0]  # the first is checked
        assert len({one.number for one in offered}) == 3
        assert failed == []


@pytest.mark.parametrize("by", ["transfer", "auto", "sockets"])
def test_pages_go_by_sockets_where_one_end_has_no_transfers(
    by: PagesBy, offers: Transfers, pulls: Puller, takes: Puller
) -> None:
    for there, own in ((takes, offers), (pulls, None)):
        there.came.clear()
        with lane_to(there, by=by, offers=own) as (lane, failed):
            lane.put(parcel(5))
            assert soon(lambda there=there: there.came == ["5.0"])
            assert failed == []


def test_what_cannot_be_pulled_goes_by_sockets(
    offers: Transfers, pulls: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other side is told of other checksums than those of the pages."""
    tries: list[Offer] = []
    offer = offers.offer

    def wrong(chunks: Any, *, with_sums: bool) -> Offer:
        good = offer(chunks, with_sums=with_sums)
        tries.append(good)
        return Offer(
            number=good.number, address=good.address, shards=good.shards, sums=(1, 2)
        )

    monkeypatch.setattr(offers, "offer", wrong)
    with (
        puller() as there,
        lane_to(there, by="transfer", offers=offers) as (
            lane,
            failed,
        ),
    ):
        for number in (1, 2):
            lane.put(parcel(number))
        assert soon(lambda: there.came == ["1.0", "2.0"])
        assert len(tries) == 1  # not tried again
        assert failed == []


def test_a_pull_of_what_was_never_offered_has_its_time(
    offers: Transfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "_LEAST_S", 0.2)
    good = offers.offer((jax.numpy.ones(SHAPE),), with_sums=True)
    unknown = Offer(number=1, address=good.address, shards=1, sums=())
    with pytest.raises(PullError, match="nothing comes within 0 s"):
        pull(offers, unknown)
    (pages,) = pull(offers, good)  # it goes on with others
    assert np.asarray(pages).tolist() == np.ones(SHAPE).tolist()
    offers.forget(good, is_pulled=True)


def test_what_nobody_pulled_is_given_back(offers: Transfers) -> None:
    offer = offers.offer((jax.numpy.ones(SHAPE),), with_sums=False)
    assert offers.kept == 1
    offers.forget(offer, is_pulled=False)
    assert offers.kept == 0
    offers.forget(offer, is_pulled=False)  # and is not there any more


def test_pages_that_lie_otherwise_are_refused(offers: Transfers) -> None:
    good = offers.offer((jax.numpy.ones(SHAPE),), with_sums=False)
    other = Offer(number=good.number, address=good.address, shards=2, sums=())
    with pytest.raises(PullError, match="pages on 2 devices for 1"):
        pull(offers, other)
    with pytest.raises(PullError):
        offers.pull(
            good, [(2, *SHAPE)], dtype=np.float32, sharding=Group1().pool_sharding
        )
    offers.forget(good, is_pulled=True)


def test_a_source_that_is_gone_has_its_time(
    offers: Transfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "_LEAST_S", 0.2)
    nobody = Offer(number=1, address="127.0.0.1:1", shards=1, sums=())
    with pytest.raises(PullError):
        pull(offers, nobody)


def test_a_target_that_is_killed_ends_the_lane(offers: Transfers) -> None:
    with (
        puller() as there,
        lane_to(there, by="transfer", offers=offers) as (
            lane,
            failed,
        ),
    ):
        lane.put(parcel(1))
        assert soon(lambda: there.came == ["1.0"])
        there.process.send_signal(signal.SIGKILL)
        there.process.wait()
        lane.put(parcel(2))
        assert soon(lambda: failed == [1])
        assert offers.kept == 0


class Group1:
    """Has one device."""

    def __init__(self) -> None:
        self.pool_sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def pull(offers: Transfers, offer: Offer) -> tuple[jax.Array, ...]:
    sharding = Group1().pool_sharding
    return offers.pull(offer, [SHAPE], dtype=np.float32, sharding=sharding)
