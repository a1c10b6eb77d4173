"""Pages from other hosts land here: a thread for each connection that is for pages.

    socket -> proofs -> does a link lead there? -> parcels -> devices -> the engine

A connection for pages lives by the link to the same host: it is taken in only while
there is one, and ends with it.
"""

import socket
import threading
from collections.abc import Callable
from typing import final

from absl import logging

from mell_jax.engine.hosts import wires
from mell_jax.hosts.pages.connection import Connection
from mell_jax.hosts.pages.parcels import Unpacking, parcel_of
from mell_jax.hosts.pages.transfers import PullError
from mell_jax.hosts.wire import Arrived, Hello, Parcel, Ways
from mell_jax.scheduler.hosts.messages import LinkMeasured
from mell_jax.scheduler.ids import Epoch
from mell_jax.scheduler.migration.messages import Chunk
from mell_jax.serving.processes.wire import WireError

MEASURED_BYTES = 2**20
"""Fewer say more about the time that a message takes than about a way's speed."""
_MAX_UNPROVEN = 16  # connections at a time


@final
class Landing:
    """Takes in connections for pages, on the event loop, and what comes over them.

    Args:
      prove: makes a connection of a socket, once the other side has proved itself.
      unpacking: puts pages on devices.
      is_linked: tells whether there is a link to the host of that epoch.
      post: takes parcels, from any thread.
      measured: is told, from any thread, how long pages took, if that tells something.
      clock: seconds.
    """

    def __init__(
        self,
        prove: Callable[[socket.socket], tuple[Connection, Hello]],
        *,
        unpacking: Unpacking,
        is_linked: Callable[[Epoch], bool],
        post: Callable[[wires.Parcel], None],
        measured: Callable[[LinkMeasured], None],
        clock: Callable[[], float],
    ) -> None:
        self._prove = prove
        self._unpacking = unpacking
        self._is_linked = is_linked
        self._post = post
        self._measured = measured
        self._clock = clock
        self._lock = threading.Lock()  # of the two below
        self._unproven = 0
        self._open: dict[Connection, Epoch] = {}

    def take_in(self, sock: socket.socket) -> None:
        """Takes in somebody who says that it has pages."""
        with self._lock:
            if self._unproven == _MAX_UNPROVEN:
                sock.close()
                return
            self._unproven += 1
        threading.Thread(
            target=self._land, args=(sock,), name="mell-landing", daemon=True
        ).start()

    def beat(self, *, patience: int) -> None:
        """Counts a beat of all connections; see `Connection`."""
        with self._lock:
            everyone = list(self._open)
        for connection in everyone:
            connection.beat(patience=patience)

    def cut(self, epoch: Epoch) -> None:
        """Ends the connections of a host to which there is no link any more."""
        with self._lock:
            its = [c for c, whose in self._open.items() if whose == epoch]
        for connection in its:
            connection.cut()

    def _land(self, sock: socket.socket) -> None:
        connection, hello = self._proven(sock)
        if connection is None or hello is None:
            return
        try:
            self._serve(connection, hello)
        except OSError:
            pass  # it has ended: the link to that host tells if that matters
        except WireError as error:
            logging.warning("pages of host %s are refused: %s", hello.name, error)
        except Exception:  # the edge: the other side sends again, or gives up
            logging.exception("pages of host %s cannot be taken", hello.name)
        finally:
            with self._lock:
                self._open.pop(connection, None)
            connection.close()

    def _proven(self, sock: socket.socket) -> tuple[Connection | None, Hello | None]:
        try:
            return self._prove(sock)
        except (OSError, WireError) as error:
            logging.info("a connection for pages is refused: %s", error)
            return None, None
        finally:
            with self._lock:
                self._unproven -= 1

    def _serve(self, connection: Connection, hello: Hello) -> None:
        if hello.role != "pages" or hello.epoch is None:
            raise WireError(f"a {hello.role!r:.20} has no pages")
        with self._lock:
            self._open[connection] = hello.epoch
        if not self._is_linked(hello.epoch):
            raise WireError("there is no link to it")
        connection.send(Ways(can_pull=self._unpacking.can_pull))
        while True:
            connection.is_idle = True
            head = connection.receive(Parcel)
            connection.is_idle = head.offer is not None  # a pull has its own time
            is_whole = self._take(head, connection)
            connection.send(Arrived(is_whole=is_whole))

    def _take(self, head: Parcel, connection: Connection) -> bool:
        """Passes a parcel on; returns False if its pages could not be pulled."""
        since_s = self._clock()
        try:
            chunks = self._unpacking.chunks(head, by=connection)
        except PullError as error:
            logging.warning("pages cannot be pulled: %s", error)
            return False
        parcel = parcel_of(head, chunks=chunks)
        self._measure(parcel, seconds=self._clock() - since_s)
        self._post(parcel)
        return True

    def _measure(self, parcel: wires.Parcel, *, seconds: float) -> None:
        nbytes = parcel.pages.nbytes if parcel.pages is not None else 0
        if isinstance(parcel.message, Chunk) and nbytes >= MEASURED_BYTES:
            self._measured(
                LinkMeasured(
                    source=parcel.message.source,
                    device=parcel.device,
                    nbytes=nbytes,
                    seconds=seconds,
                )
            )
