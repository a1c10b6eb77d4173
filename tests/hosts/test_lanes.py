"""Lanes bring pages to another host, whatever becomes of their connections."""

import contextlib
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mell_jax.engine.fleet.page_transfer import PageTransfer
from mell_jax.engine.hosts import wires
from mell_jax.hosts.link import LinkConfig
from mell_jax.hosts.pages import connection, landing, lane
from mell_jax.hosts.pages.buffers import Buffers
from mell_jax.hosts.pages.connection import FOR_PAGES, Connection, dial, take_in
from mell_jax.hosts.pages.landing import Landing
from mell_jax.hosts.pages.lane import Lane
from mell_jax.hosts.pages.parcels import Unpacking
from mell_jax.hosts.proof import RefusedError
from mell_jax.hosts.wire import Challenge, Hello, HostCodec, Proof
from mell_jax.scheduler.hosts.messages import LinkMeasured
from mell_jax.scheduler.ids import CopyId, DeviceGroupId, Epoch, RequestId
from mell_jax.scheduler.migration.messages import Chunk
from mell_jax.scheduler.plan import Places
from mell_jax.scheduler.transfer import Mode
from mell_jax.serving.processes.wire import WireError
from tests.hosts.processes import wait_for
from tests.hosts.test_link import tls
from tests.serving.certificates import Authority

CONFIG = LinkConfig(secret=b"sixteen bytes...")
THERE = Epoch(4)
HELLO = Hello(role="pages", name="left", epoch=THERE)


class _Group:
    """Has one device; see `DeviceGroup`."""

    def __init__(self) -> None:
        self.pool_sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def parcel(number: int, *, size: int = 1000) -> wires.Parcel:
    """An array that is full of its number."""
    chunk = Chunk(
        request=RequestId(number),
        copy_id=CopyId(9),
        from_copy_id=CopyId(7),
        source=DeviceGroupId(1),
        mode=Mode.KV,
        first=0,
        end=16,
        is_last=False,
    )
    pages = PageTransfer(
        chunks=(jax.numpy.full((size,), number, np.float32),),
        places=Places.in_order(1),
    )
    return wires.Parcel(device=DeviceGroupId(2), message=chunk, pages=pages)


class There:
    """Another host, as far as it takes pages in, and the way of bytes to it.

    Attributes:
      came: the numbers of parcels.
      spoil: may change what goes there: bytes of one connection.
    """

    def __init__(self, config: LinkConfig = CONFIG) -> None:
        group: Any = _Group()
        self.came: list[int] = []
        self.measured: list[LinkMeasured] = []
        self.links = {THERE}
        self.landing = Landing(
            partial(take_in, secret=config.secret, tls=config.server),
            unpacking=Unpacking(lambda _: group, buffers=Buffers(most_bytes=2**24)),
            is_linked=self.links.__contains__,
            post=self._post,
            measured=self.measured.append,
            clock=time.monotonic,
        )
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._server.getsockname()
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                sock, _ = self._server.accept()
                said = sock.recv(len(FOR_PAGES), socket.MSG_WAITALL)
                assert said == FOR_PAGES
                self.connections += 1
                self.landing.take_in(sock)

    def _post(self, came: wires.Parcel) -> None:
        assert came.pages is not None
        values = np.asarray(came.pages.chunks[0])
        assert isinstance(came.message, Chunk)
        assert set(values.tolist()) == {float(came.message.request)}
        self.came.append(int(came.message.request))

    def dial(self, config: LinkConfig = CONFIG, hello: Hello = HELLO) -> Connection:
        return dial(*self.address, hello=hello, secret=config.secret, tls=config.client)

    def close(self) -> None:
        self._server.close()
        self.landing.cut(THERE)


@contextlib.contextmanager
def there(config: LinkConfig = CONFIG) -> Iterator[There]:
    other = There(config)
    try:
        yield other
    finally:
        other.close()


@contextlib.contextmanager
def lane_by(dialled: Callable[[], Connection]) -> "Iterator[tuple[Lane, list[int]]]":
    failed: list[int] = []
    opened = Lane("right", dial=dialled, failed=lambda: failed.append(1))
    try:
        yield opened, failed
    finally:
        opened.close()
        opened._thread.join(10.0)


def soon(is_so: Callable[[], bool]) -> bool:
    return wait_for(is_so, most_s=20.0)


def test_parcels_come_in_order_over_one_connection() -> None:
    with there() as other, lane_by(other.dial) as (opened, failed):
        for number in range(20):
            assert opened.put(parcel(number))
        assert soon(lambda: len(other.came) == 20)
        assert other.came == list(range(20))
        assert (other.connections, failed) == (1, [])
        assert not other.measured  # 4,000 bytes tell nothing of a way


def test_a_way_is_measured_by_what_takes_its_time() -> None:
    with there() as other, lane_by(other.dial) as (opened, _):
        opened.put(parcel(3, size=2**19))
        assert soon(lambda: bool(other.measured))
        (measured,) = other.measured
        assert (measured.source, measured.device) == (1, 2)
        assert measured.nbytes == 2**21
        assert measured.seconds > 0.0


@pytest.mark.parametrize("when", [0, 1, 30_000, 2**22 + 60])
def test_a_parcel_goes_again_if_its_connection_ends(when: int) -> None:
    """After so many bytes, the first time."""
    with there() as other:
        dialled: list[Connection] = []

        def once() -> Connection:
            found = other.dial()
            if not dialled:
                cut_after(found, when)
            dialled.append(found)
            return found

        with lane_by(once) as (opened, failed):
            opened.put(parcel(1, size=2**20))
            opened.put(parcel(2))
            assert soon(lambda: 2 in other.came)
            assert other.came[-2:] == [1, 2]
            assert set(other.came) == {1, 2}
            assert failed == []


def cut_after(found: Connection, count: int) -> None:
    """Cuts a connection once so many bytes have gone."""
    sock: Any = found._socket
    left = [count]

    class Cutting:
        def send(self, data: memoryview) -> int:
            if not left[0]:
                found.cut()
            sent = sock.send(data[: max(left[0], 1)])
            left[0] = max(left[0] - sent, 0)
            return sent

        def __getattr__(self, name: str) -> Any:
            return getattr(sock, name)

    cutting: Any = Cutting()
    found._socket = cutting
    found.cut = lambda: socket.socket.shutdown(  # type: ignore[method-assign]
        sock, socket.SHUT_RDWR
    )


def test_bits_that_have_changed_are_sent_again() -> None:
    with there() as other:
        dialled: list[Connection] = []

        def once() -> Connection:
            found = other.dial()
            if not dialled:
                spoil(found)
            dialled.append(found)
            return found

        with lane_by(once) as (opened, failed):
            opened.put(parcel(5, size=2**16))
            assert soon(lambda: bool(other.came))
            assert (other.came, len(dialled), failed) == ([5], 2, [])


def spoil(found: Connection) -> None:
    """Turns a bit of the pages that go over a connection."""
    give = found.give

    def spoiled(data: memoryview, **kwargs: Any) -> None:
        if len(data) < 2**16:  # a message
            give(data, **kwargs)
            return
        kwargs["see"](data)
        other = bytearray(data)
        other[2**15] ^= 1
        give(memoryview(other))

    found.give = spoiled  # type: ignore[method-assign]


def test_a_lane_that_leads_nowhere_fails_once() -> None:
    def refuse() -> Connection:
        raise ConnectionRefusedError("nobody is there")

    with lane_by(refuse) as (opened, failed):
        opened.put(parcel(1))
        assert soon(lambda: bool(failed))
        opened.put(parcel(2))
        assert failed == [1]


def test_a_lane_that_is_closed_does_not_fail() -> None:
    with there() as other, lane_by(other.dial) as (opened, failed):
        opened.put(parcel(1))
        assert soon(lambda: other.came == [1])
        opened.close()
        opened._thread.join(10.0)
        assert not opened._thread.is_alive()
        assert failed == []


@pytest.fixture(name="deaf")
def deaf_side() -> Iterator[Callable[[], Connection]]:
    """Connects to somebody who has proved himself, and reads nothing after that."""
    with contextlib.ExitStack() as stack:

        def dial_deaf() -> Connection:
            near, far = socket.socketpair()
            stack.callback(far.close)
            found = Connection(near)
            found.trust()
            return found

        yield dial_deaf


def test_who_does_not_read_is_given_up_after_so_many_beats(
    deaf: Callable[[], Connection],
) -> None:
    with lane_by(deaf) as (opened, failed):
        opened.put(parcel(1, size=2**22))
        assert soon(lambda: opened._connection is not None)
        for _ in range(3):
            opened.beat(patience=10)
        assert not failed
        assert soon(lambda: (opened.beat(patience=10), bool(failed))[1])


def test_an_idle_lane_is_not_given_up() -> None:
    with there() as other, lane_by(other.dial) as (opened, failed):
        opened.put(parcel(1))
        assert soon(lambda: other.came == [1])
        assert soon(
            lambda: opened._connection is not None and opened._connection.is_idle
        )
        for _ in range(100):
            opened.beat(patience=3)
            other.landing.beat(patience=3)
        opened.put(parcel(2))
        assert soon(lambda: other.came == [1, 2])
        assert (other.connections, failed) == (1, [])


def test_what_waits_for_a_slow_reader_is_bounded(
    monkeypatch: pytest.MonkeyPatch, deaf: Callable[[], Connection]
) -> None:
    monkeypatch.setattr(lane, "MAX_WAITING_BYTES", 10_000)
    with lane_by(deaf) as (opened, failed):
        taken = [opened.put(parcel(1)) for _ in range(30)]
        assert taken.count(True) <= 5  # of 4,000 bytes, one of them on its way
        assert not taken[-1]
        assert not failed  # whoever left them decides


def test_pages_of_a_host_without_a_link_are_refused() -> None:
    with there() as other:
        other.links.clear()
        with lane_by(other.dial) as (opened, failed):
            opened.put(parcel(1))
            assert soon(lambda: bool(failed))
            assert other.came == []


def test_connections_end_with_the_link() -> None:
    with there() as other, lane_by(other.dial) as (opened, failed):
        opened.put(parcel(1))
        assert soon(lambda: other.came == [1])
        other.links.clear()
        other.landing.cut(THERE)
        opened.put(parcel(2))
        assert soon(lambda: bool(failed))
        assert other.came == [1]


# Who gets in.


@pytest.mark.parametrize("secret", [b"", b"another one of 16"])
def test_whoever_has_another_secret_is_refused(secret: bytes) -> None:
    with there() as other, pytest.raises((RefusedError, ConnectionError)):
        other.dial(replace(CONFIG, secret=secret))
    with there(replace(CONFIG, secret=secret)) as other, pytest.raises(ConnectionError):
        other.dial()


@pytest.mark.parametrize("role", ["peer", "host", "front"])
def test_who_comes_for_something_else_brings_no_pages(role: str) -> None:
    with (
        there() as other,
        lane_by(lambda: other.dial(hello=replace(HELLO, role=role))) as (
            opened,
            failed,
        ),
    ):
        opened.put(parcel(1))
        assert soon(lambda: bool(failed))
        assert other.came == []


def test_nothing_is_heard_before_the_proof() -> None:
    codec = HostCodec()
    tries = [
        codec.encode(Proof(nonce=b"", digest=b"")),
        codec.encode(HELLO) + codec.encode(Proof(nonce=b"", digest=b"")),
        codec.encode(HELLO) + codec.encode(HELLO),
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<IB", connection.UNPROVEN_BYTES + 1, 0),
    ]
    with there() as other:
        for said in tries:
            with socket.create_connection(other.address, timeout=20.0) as sock:
                sock.sendall(FOR_PAGES + said)
                heard = b""
                with contextlib.suppress(ConnectionError):
                    while more := sock.recv(4096):
                        heard += more
                assert len(heard) < 100, said


def test_who_says_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_S", 0.1)
    with there() as other:
        for said in (b"", HostCodec().encode(HELLO)):
            with socket.create_connection(other.address, timeout=20.0) as sock:
                sock.sendall(FOR_PAGES + said)
                with contextlib.suppress(ConnectionError):
                    while sock.recv(4096):
                        pass  # the challenge


def test_only_so_many_who_prove_nothing_get_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(landing, "_MAX_UNPROVEN", 2)
    with there() as other, contextlib.ExitStack() as stack:
        for _ in range(2):
            sock = stack.enter_context(socket.create_connection(other.address))
            sock.sendall(FOR_PAGES)
            assert sock.recv(1)  # the challenge
        last = stack.enter_context(
            socket.create_connection(other.address, timeout=20.0)
        )
        last.sendall(FOR_PAGES)
        with contextlib.suppress(ConnectionError):
            assert last.recv(1) == b""


def test_who_pretends_to_listen_is_refused() -> None:
    """It says back what it hears."""
    server = socket.create_server(("127.0.0.1", 0))
    said: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def pretend() -> None:
        sock, _ = server.accept()
        near = Connection(sock)
        near.take(memoryview(bytearray(len(FOR_PAGES))))
        near.send(Challenge(nonce=bytes(32)))
        near.receive(Hello)
        proof = near.receive(Proof)
        said.put(proof.digest)
        near.send(proof)
        near.close()

    threading.Thread(target=pretend, daemon=True).start()
    host, port = server.getsockname()
    with pytest.raises(RefusedError, match="another secret"):
        dial(host, port, hello=HELLO, secret=CONFIG.secret, tls=None)
    assert CONFIG.secret not in said.get()
    server.close()


def test_messages_are_bounded_and_of_the_kind_that_is_due() -> None:
    near, far = socket.socketpair()
    with near, far:
        sends, takes = Connection(near), Connection(far)
        sends.send(HELLO)
        with pytest.raises(WireError, match="a Hello where Proof is due"):
            takes.receive(Proof)
        sends.send(HELLO)
        with pytest.raises(WireError, match=r"at most 10 are allowed"):
            takes.receive(Hello, most=10)


def test_the_end_of_the_other_side_is_heard() -> None:
    near, far = socket.socketpair()
    with far:
        Connection(near).close()
        with pytest.raises(ConnectionError, match="hung up"):
            Connection(far).receive(Hello)


# TLS.


def test_pages_go_over_tls(tmp_path: Path) -> None:
    authority = Authority("the fleet's")
    config = tls(authority, folder=tmp_path, name="left", ca=authority)
    with there(config) as other, lane_by(lambda: other.dial(config)) as (opened, _):
        for number in (1, 2):
            opened.put(parcel(number, size=2**19))
        assert soon(lambda: other.came == [1, 2])
        assert opened._connection is not None and opened._connection._is_tls


def test_without_the_authoritys_certificate_no_pages_go(tmp_path: Path) -> None:
    ours, theirs = Authority("the fleet's"), Authority("another one")
    good = tls(ours, folder=tmp_path, name="left", ca=ours)
    bad = tls(theirs, folder=tmp_path, name="x", ca=ours)
    with there(good) as other:
        for config in (bad, CONFIG):
            with pytest.raises((OSError, WireError)):
                other.dial(config)
    with there(CONFIG) as other, pytest.raises((OSError, WireError)):
        other.dial(good)
