"""Batches go out in order over ZeroMQ, and those that were missed come again."""

from pathlib import Path

import msgspec
import pytest
import zmq

from mell_jax.engine.kv_events.events import AllBlocksCleared, KVEventBatch
from mell_jax.engine.kv_events.zmq_publisher import ZmqPublisher

WAIT_MS = 5000


def batch(number: int) -> KVEventBatch:
    return KVEventBatch(ts=float(number), events=[AllBlocksCleared()])


@pytest.fixture
def context():
    with zmq.Context() as made:
        yield made


def subscribe(context: zmq.Context, address: str, *, topic: bytes) -> zmq.Socket:
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.SUBSCRIBE, topic)
    socket.setsockopt(zmq.RCVTIMEO, WAIT_MS)
    socket.connect(address)
    return socket


def test_subscribers_of_the_topic_get_batches_in_order(context, tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/events"
    publisher = ZmqPublisher(address, topic="kv@toy")
    with subscribe(context, address, topic=b"kv@") as socket:
        seen: list[int] = []
        sent = 0
        while len(seen) < 5:  # the first ones may be sent before it is there
            publisher.publish(batch(sent))
            sent += 1
            if socket.poll(100):
                topic, number, payload = socket.recv_multipart()
                assert topic == b"kv@toy"
                told = msgspec.msgpack.decode(payload, type=KVEventBatch)
                assert told.ts == int.from_bytes(number, "big")
                seen.append(int(told.ts))
    publisher.close()
    assert seen == list(range(seen[0], seen[0] + len(seen)))


def test_who_asks_gets_what_was_sent_since(context, tmp_path: Path) -> None:
    replay = f"ipc://{tmp_path}/replay"
    publisher = ZmqPublisher(f"ipc://{tmp_path}/events", replay=replay)
    for number in range(4):
        publisher.publish(batch(number))
    end = (-1).to_bytes(8, "big", signed=True)
    got: list[bytes] = []
    with context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.RCVTIMEO, WAIT_MS)
        socket.connect(replay)
        while len(got) < 3:  # until all four were sent
            socket.send_multipart((b"", (2).to_bytes(8, "big")))
            got = [socket.recv_multipart()[1]]
            while got[-1] != end:
                got.append(socket.recv_multipart()[1])
    publisher.close()
    assert [int.from_bytes(each, "big", signed=True) for each in got] == [2, 3, -1]


def test_an_address_that_is_taken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tcp://nowhere.*cannot be used"):
        ZmqPublisher("tcp://nowhere.invalid:1")
