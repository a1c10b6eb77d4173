"""Links between processes of a fleet: who gets one, and what ends it."""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mell_jax.hosts import address as address_of
from mell_jax.hosts import link as links
from mell_jax.hosts.link import Link, LinkConfig, RefusedError, connect, listen
from mell_jax.hosts.tls import TlsPaths, contexts
from mell_jax.hosts.wire import Challenge, Hello, HostCodec, Piece, Proof
from mell_jax.scheduler.hosts.messages import Beat, Reached
from mell_jax.scheduler.ids import Epoch
from tests.serving.certificates import Authority

CONFIG = LinkConfig(secret=b"sixteen bytes...", patience=3)
Answer = TypeVar("Answer")
HELLO = Hello(role="peer", name="left", epoch=Epoch(4))


class End:
    """One end of a link, and what it has heard."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.heard: list[Any] = []
        self.cuts = 0
        self.task = link.run(hear=self.heard.append, on_cut=self._cut)

    def _cut(self) -> None:
        self.cuts += 1

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(10.0):
            while not is_so():
                await asyncio.sleep(0.001)


class Listener:
    """Listens; `ends` are those of links that were made."""

    def __init__(self) -> None:
        self.address = ""
        self.links: list[Link] = []

    async def greet(self, link: Link) -> None:
        self.links.append(link)

    async def first(self) -> Link:
        async with asyncio.timeout(10.0):
            while not self.links:
                await asyncio.sleep(0.001)
        return self.links[0]


@contextlib.asynccontextmanager
async def listening(config: LinkConfig) -> AsyncIterator[Listener]:
    listener = Listener()
    server = await listen("127.0.0.1:0", config=config, greet=listener.greet)
    listener.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield listener
    finally:
        server.close()
        for link in listener.links:
            link.cut()
        await asyncio.sleep(0.05)  # for all connections to be closed


@contextlib.asynccontextmanager
async def linked(config: LinkConfig = CONFIG) -> AsyncIterator[tuple[End, End]]:
    """Yields the end that has connected, and the one that has listened."""
    async with listening(config) as listener:
        near = await connect(listener.address, hello=HELLO, config=config)
        far = await listener.first()
        assert far.hello == HELLO
        ends = End(near), End(far)
        yield ends
        for end in ends:
            end.link.cut()
        await asyncio.gather(*(end.task for end in ends))


def run(test: Awaitable[Answer]) -> Answer:
    async def whole() -> Answer:
        async with asyncio.timeout(30.0):
            answer = await test
            while _open_connections():  # what is left open by the loop's end warns
                await asyncio.sleep(0.001)
            return answer

    return asyncio.run(whole())


def _open_connections() -> bool:
    loop: Any = asyncio.get_running_loop()
    return any(one._sock is not None for one in list(loop._transports.values()))


def test_messages_come_in_order_both_ways() -> None:
    async def test() -> None:
        async with linked() as (near, far):
            for epoch in range(100):
                near.link.send(Reached(epoch=Epoch(epoch)))
            far.link.send(Beat())
            await far.until(lambda: len(far.heard) == 100)
            await near.until(lambda: near.heard == [Beat()])
            assert [message.epoch for message in far.heard] == list(range(100))
            assert near.link.hello is None

    run(test())


def test_both_ends_hear_of_a_cut_once() -> None:
    async def test() -> None:
        async with linked() as (near, far):
            near.link.cut()
            near.link.cut()
            near.link.send(Beat())  # is lost
            await far.until(lambda: far.cuts > 0 and near.cuts > 0)
            assert (near.cuts, far.cuts) == (1, 1)
            assert far.heard == []

    run(test())


async def refused(config: LinkConfig, *, by: LinkConfig = CONFIG) -> None:
    """Whoever listens has `by`."""
    async with listening(by) as listener:
        with pytest.raises((OSError, RefusedError)):
            await connect(listener.address, hello=HELLO, config=config)
        await asyncio.sleep(0.05)  # for the listener to hear of its end
        assert listener.links == []


@pytest.mark.parametrize("secret", [b"", b"another one of 16", b"sixteen bytes.."])
def test_whoever_has_another_secret_gets_no_link(secret: bytes) -> None:
    run(refused(replace(CONFIG, secret=secret)))
    run(refused(CONFIG, by=replace(CONFIG, secret=secret)))


def test_whoever_pretends_to_listen_learns_nothing_and_is_refused() -> None:
    async def test() -> None:
        async def pretend(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            codec = HostCodec()
            writer.write(codec.encode(Challenge(nonce=bytes(32))))
            data = await reader.read(2**16)
            assert CONFIG.secret not in data
            proof = codec.reader().feed(data)[1]
            writer.write(codec.encode(proof))  # its own words, said back to it
            writer.close()

        server = await asyncio.start_server(pretend, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(RefusedError, match="another secret"):
            await connect(f"127.0.0.1:{port}", hello=HELLO, config=CONFIG)
        server.close()

    run(test())


@pytest.mark.parametrize("first", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 5])
def test_who_is_no_process_of_a_fleet_is_refused(first: bytes) -> None:
    async def test() -> None:
        async def other(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(first)
            writer.close()

        server = await asyncio.start_server(other, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(RefusedError, match=r"no process of a fleet|where a"):
            await connect(f"127.0.0.1:{port}", hello=HELLO, config=CONFIG)
        server.close()

    run(test())


def test_a_listener_that_hangs_up_is_refused() -> None:
    async def test() -> None:
        async def other(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_server(other, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(RefusedError, match="hung up"):
            await connect(f"127.0.0.1:{port}", hello=HELLO, config=CONFIG)
        server.close()

    run(test())


async def answer_to(data: bytes) -> bytes:
    """Returns what a listener says, until it hangs up, to who just says that."""
    async with listening(CONFIG) as listener:
        host, _, port = listener.address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(data)
        try:
            said = await reader.read()
        except ConnectionResetError:
            said = b""
        assert listener.links == []
        writer.close()
        return said


def test_without_a_proof_nothing_is_heard() -> None:
    codec = HostCodec()
    tries = [
        codec.encode(Reached(epoch=Epoch(1))),
        codec.encode(HELLO) + codec.encode(Proof(nonce=b"", digest=b"")),
        codec.encode(HELLO) + codec.encode(Beat()),
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<IB", links.UNPROVEN_BYTES + 1, 0),  # would be waited for
    ]
    for data in tries:
        said = run(answer_to(data))
        assert len(said) < 100, data


def test_who_says_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "CONNECT_S", 0.05)
    run(answer_to(b""))


def test_who_listens_and_says_nothing_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(links, "CONNECT_S", 0.05)

    async def test() -> None:
        async def other(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()

        server = await asyncio.start_server(other, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TimeoutError):
            await connect(f"127.0.0.1:{port}", hello=HELLO, config=CONFIG)
        server.close()
        await asyncio.sleep(0.05)

    run(test())


def test_silence_is_counted_in_beats_and_any_word_ends_it() -> None:
    async def test() -> None:
        async with linked() as (near, far):
            for _ in range(3):
                near.link.beat()
            far.link.send(Beat())
            await near.until(lambda: near.heard == [Beat()])
            for _ in range(3):
                near.link.beat()
            assert near.link.is_up
            near.link.beat()  # more than its patience
            assert not near.link.is_up
            await far.until(lambda: far.cuts == 1)

    run(test())


def test_what_cannot_be_understood_ends_a_link() -> None:
    async def test() -> None:
        async with linked() as (near, far):
            near.link._writer.write(struct.pack("<IB", 1, 250) + b"\xc0")
            await far.until(lambda: far.cuts == 1)
            await near.until(lambda: near.cuts == 1)

    run(test())


def test_a_listener_that_raises_ends_its_link() -> None:
    async def test() -> None:
        def fail(message: Any) -> None:
            raise KeyError("a bug")

        async with listening(CONFIG) as listener:
            near = End(await connect(listener.address, hello=HELLO, config=CONFIG))
            far = (await listener.first()).run(hear=fail, on_cut=lambda: None)
            near.link.send(Beat())
            await near.until(lambda: near.cuts == 1)
            with pytest.raises(KeyError):
                await far

    run(test())


def test_what_is_too_large_ends_a_link(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with linked() as (near, far):
            monkeypatch.setattr("mell_jax.hosts.wire.MAX_BYTES", 1000)
            near.link.send(Piece(data=bytes(1001), crc=0))
            await far.until(lambda: far.cuts == 1 and near.cuts == 1)
            assert far.heard == []

    run(test())


def test_a_slow_reader_holds_bounded_memory_and_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(links, "MAX_UNSENT_BYTES", 2**22)

    async def test() -> None:
        async with listening(CONFIG) as listener:
            near = End(await connect(listener.address, hello=HELLO, config=CONFIG))
            await listener.first()  # and nobody reads there
            most = 0
            for _ in range(100):
                near.link.send(Piece(data=bytes(2**20), crc=0))
                most = max(most, near.link.unsent_bytes)
                await asyncio.sleep(0)
            assert not near.link.is_up
            assert most <= 2**22 + 2**21
            await near.until(lambda: near.cuts == 1)

    run(test())


def test_a_writer_that_waits_goes_on_when_the_link_is_cut() -> None:
    async def test() -> None:
        async with listening(CONFIG) as listener:
            near = End(await connect(listener.address, hello=HELLO, config=CONFIG))
            far = await listener.first()
            near.link.send(Piece(data=bytes(2**24), crc=0))
            waits = asyncio.ensure_future(near.link.drain())
            await asyncio.sleep(0.01)
            assert not waits.done()
            far.cut()
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(waits, 10.0)
            await near.until(lambda: near.cuts == 1)

    run(test())


# TLS.


def tls(authority: Authority, *, folder: Path, name: str, ca: Authority) -> LinkConfig:
    """Returns the config of a process with a certificate, that trusts `ca`."""
    cert, key = authority.sign(name).write(folder, name)
    (folder / f"{name}-ca").write_bytes(ca.certificate)
    paths = TlsPaths(cert=cert, key=key, ca=str(folder / f"{name}-ca"))
    server, client = contexts(paths)
    return replace(CONFIG, server=server, client=client)


def test_processes_with_certificates_of_one_authority_are_linked(
    tmp_path: Path,
) -> None:
    authority = Authority("the fleet's")

    async def test() -> None:
        config = tls(authority, folder=tmp_path, name="left", ca=authority)
        async with linked(config) as (near, far):
            near.link.send(Piece(data=bytes(2**20), crc=0))
            await far.until(lambda: len(far.heard) == 1)
            seen = near.link._writer.get_extra_info("ssl_object")
            assert seen.version() == "TLSv1.3"

    run(test())


def test_another_authority_gets_no_link(tmp_path: Path) -> None:
    ours, theirs = Authority("the fleet's"), Authority("another one")
    good = tls(ours, folder=tmp_path, name="left", ca=ours)
    for name, signer, trusts in [("x", theirs, ours), ("y", ours, theirs)]:
        other = tls(signer, folder=tmp_path, name=name, ca=trusts)
        run(refused(other, by=good))
        run(refused(good, by=other))


def test_without_tls_or_without_a_certificate_nobody_gets_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "CONNECT_S", 0.5)
    ours = Authority("the fleet's")
    good = tls(ours, folder=tmp_path, name="left", ca=ours)
    bare = ssl.create_default_context(cadata=ours.certificate.decode())
    bare.check_hostname = False
    run(refused(replace(CONFIG, client=bare), by=good))
    run(refused(CONFIG, by=good))
    run(refused(good, by=CONFIG))


def test_a_missing_certificate_is_told(tmp_path: Path) -> None:
    paths = TlsPaths(cert=str(tmp_path / "no"), key="", ca="")
    with pytest.raises(OSError):
        contexts(paths)
    assert contexts(None) == (None, None)


# Addresses.


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("10.0.0.7:7000", ("10.0.0.7", 7000)),
        ("[::1]:0", ("::1", 0)),
        ("left.local:65535", ("left.local", 65535)),
    ],
)
def test_an_address_is_a_host_and_a_port(address: str, parts: tuple[str, int]) -> None:
    assert address_of.split_address(address) == parts


@pytest.mark.parametrize("address", ["", "left", "left:", "left:x", "left:65536"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"as in 10\.0\.0\.1:7000, got"):
        address_of.split_address(address)


def test_this_machine_is_found_on_the_way_to_another_process() -> None:
    assert links.own_address("127.0.0.1:7000") == "127.0.0.1:0"
    with pytest.raises(ValueError, match="host:port"):
        links.own_address("nowhere")
