"""ZeroMQ publishes events: topic, number, msgpack. What was missed can be asked for.

    PUB     [topic, 8 bytes big-endian number, batch]          to whoever listens
    ROUTER  [number] -> [number, batch] ... [-1, nothing]      to who asks, since then

A thread has the sockets. The engine leaves batches in a bounded queue; those that find
it full are dropped and counted, and the numbers show subscribers that some are missing.
"""

import queue
import threading
from collections import deque
from typing import Any, final

import msgspec
from absl import logging

from mell_jax.engine.kv_events.events import KVEventBatch

_KEPT = 10_000  # batches, for those who ask
_MOST_WAITING = 100_000
_LOOK_MS = 100  # between two looks at questions
_END_S = 1.0
_END = (-1).to_bytes(8, "big", signed=True)


@final
class ZmqPublisher:
    """Publishes batches; see `news.Publisher`.

    Args:
      address: that subscribers connect to.
      replay: that they ask at for what they missed; empty for nobody.
      topic: of all events.

    Raises:
      ValueError: pyzmq is not installed, or an address cannot be used.
    """

    def __init__(self, address: str, *, replay: str = "", topic: str = "") -> None:
        zmq = _zmq()
        self._zmq = zmq
        self._context = zmq.Context()
        self._topic = topic.encode()
        self._queue: queue.Queue[KVEventBatch | None] = queue.Queue(_MOST_WAITING)
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=_KEPT)
        self._encoder = msgspec.msgpack.Encoder()
        self._number = 0
        self.dropped = 0
        self._sockets: list[Any] = []
        self._pub = self._bind(zmq.PUB, address)
        self._router = self._bind(zmq.ROUTER, replay) if replay else None
        self._thread = threading.Thread(
            target=self._run, name="mell-kv-events", daemon=True
        )
        self._thread.start()

    def publish(self, batch: KVEventBatch) -> None:
        """Leaves a batch to be sent; never waits."""
        try:
            self._queue.put_nowait(batch)
        except queue.Full:
            self.dropped += 1
            if self.dropped == 1:
                logging.warning("nobody takes events of the cache: some are dropped")

    def close(self) -> None:
        """Sends what is left, for a moment, and ends."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            self._queue.get_nowait()
            self._queue.put_nowait(None)
        self._thread.join(_END_S)

    def _bind(self, kind: int, address: str) -> Any:
        socket = self._context.socket(kind)
        self._sockets.append(socket)
        socket.setsockopt(self._zmq.LINGER, 0)
        try:
            socket.bind(address)
        except self._zmq.ZMQError as error:
            self._close_sockets()
            raise ValueError(f"kv_events: {address} cannot be used: {error}") from error
        return socket

    def _run(self) -> None:
        while True:
            while self._router is not None and self._router.poll(0):
                self._answer(self._router)
            try:
                batch = self._queue.get(timeout=_LOOK_MS / 1000)
            except queue.Empty:
                continue
            if batch is None:
                break
            self._send(batch)
        self._close_sockets()

    def _close_sockets(self) -> None:
        for socket in self._sockets:
            socket.close()
        self._context.term()

    def _send(self, batch: KVEventBatch) -> None:
        payload = self._encoder.encode(batch)
        number, self._number = self._number, self._number + 1
        self._kept.append((number, payload))
        self._pub.send_multipart((self._topic, number.to_bytes(8, "big"), payload))

    def _answer(self, router: Any) -> None:
        """Says again what was sent since the number that somebody asks for."""
        who, *_, first = router.recv_multipart()
        if len(first) == len(_END):
            since = int.from_bytes(first, "big")
            for number, payload in self._kept:
                if number >= since:
                    told = (who, b"", number.to_bytes(8, "big"), payload)
                    router.send_multipart(told)
        router.send_multipart((who, b"", _END, b""))


def _zmq() -> Any:
    """Returns the package.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import zmq  # noqa: PLC0415
    except ImportError as error:
        raise ValueError(
            "kv_events needs pyzmq: install mell_jax with the extra cluster"
        ) from error
    return zmq
