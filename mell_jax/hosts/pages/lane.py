"""A lane brings parcels with pages to one other host, in order.

    put(parcel) -> queue -> thread: fetch from devices, send, wait for the answer

A parcel that was not answered before the connection ended goes again, over another one:
the target's end of a move knows what it has already. Pages are kept until then.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import final

from absl import logging

from mell_jax.engine.hosts import wires
from mell_jax.hosts.pages.choice import Choice, PagesBy
from mell_jax.hosts.pages.connection import Connection
from mell_jax.hosts.pages.parcels import head_of, send_chunks
from mell_jax.hosts.pages.transfers import Transfers
from mell_jax.hosts.wire import Arrived, Ways
from mell_jax.serving.processes.wire import WireError

_TRIES = 2
MAX_WAITING_BYTES = 2**32
"""If more wait behind a parcel that is on its way, the target does not read."""


@final
class Lane:
    """A lane has a thread, from its first parcel on, and one connection at a time.

    Args:
      name: of the host that it leads to, for the log.
      dial: connects to that host.
      failed: hears once, on the lane's thread, that it brings nothing there.
      pages_by: which way they go, if the other side offers more than one.
      transfers: offer pages to be pulled; None where they cannot.
    """

    def __init__(
        self,
        name: str,
        *,
        dial: Callable[[], Connection],
        failed: Callable[[], None],
        pages_by: PagesBy = "sockets",
        transfers: Transfers | None = None,
    ) -> None:
        self._pages_by = pages_by
        self._transfers = transfers
        self._choice: Choice | None = None  # from the first connection on
        self._is_checked = False  # that transfers bring what they should
        self._name = name
        self._dial = dial
        self._failed = failed
        self._queue = queue.SimpleQueue[wires.Parcel | None]()
        self._lock = threading.Lock()  # of the three below
        self._connection: Connection | None = None
        self._is_closed = False
        self._waiting_bytes = 0
        self._thread = threading.Thread(
            target=self._work, name="mell-lane", daemon=True
        )
        self._thread.start()

    def put(self, parcel: wires.Parcel) -> bool:
        """Leaves a parcel to be sent; returns False if too many wait already."""
        with self._lock:
            if self._waiting_bytes > MAX_WAITING_BYTES:
                return False
            self._waiting_bytes += _size(parcel)
        self._queue.put(parcel)
        return True

    def beat(self, *, patience: int) -> None:
        """Counts a beat, in which something should have moved; see `Connection`."""
        with self._lock:
            connection = self._connection
        if connection is not None:
            connection.beat(patience=patience)

    def close(self) -> None:
        """Ends it; parcels that wait are lost."""
        with self._lock:
            self._is_closed = True
            connection = self._connection
        if connection is not None:
            connection.cut()
        self._queue.put(None)

    def _work(self) -> None:
        try:
            while (parcel := self._queue.get()) is not None and not self._is_closed:
                with self._lock:
                    self._waiting_bytes -= _size(parcel)
                self._bring(parcel)
        except (OSError, WireError) as error:
            if not self._is_closed:
                logging.warning("pages do not get to host %s: %s", self._name, error)
        except Exception:  # the edge: a device that gives no pages, or a bug
            logging.exception("pages for host %s cannot be sent", self._name)
        finally:
            self._drop()
            if not self._is_closed:
                self._failed()

    def _bring(self, parcel: wires.Parcel) -> None:
        """Sends a parcel, over another connection if the first one ends.

        Raises:
          OSError: none of them brought it there.
          WireError: the other side says what it should not.
        """
        for left in reversed(range(_TRIES)):
            try:
                self._send(parcel, self._connected())
                return
            except (OSError, WireError) as error:
                self._drop()
                if self._is_closed or not left:
                    raise
                logging.warning("pages go to host %s again: %s", self._name, error)

    def _send(self, parcel: wires.Parcel, connection: Connection) -> None:
        assert self._choice is not None, "a connection has told what there is"
        size, start_s = _size(parcel), time.monotonic()
        is_transfer = self._choice.is_transfer(size)
        if is_transfer and not self._offer(parcel, connection):
            logging.warning("pages go to host %s by sockets from now on", self._name)
            self._choice.give_up()
            is_transfer, start_s = False, time.monotonic()
        if not is_transfer:
            self._send_bytes(parcel, connection)
        seconds = time.monotonic() - start_s
        self._choice.note(size, seconds=seconds, is_transfer=is_transfer)

    def _send_bytes(self, parcel: wires.Parcel, connection: Connection) -> None:
        assert parcel.pages is not None, "only pages go by a lane"
        connection.is_idle = False
        connection.send(head_of(parcel))
        send_chunks(parcel.pages.chunks, to=connection)
        if not connection.receive(Arrived).is_whole:
            raise WireError("the other side has lost pages that it was sent")
        connection.is_idle = True

    def _offer(self, parcel: wires.Parcel, connection: Connection) -> bool:
        """Offers pages, keeps them until there is an answer, and returns that."""
        assert parcel.pages is not None and self._transfers is not None
        connection.is_idle = True  # a pull has its own time
        chunks = parcel.pages.chunks
        offer = self._transfers.offer(chunks, with_sums=not self._is_checked)
        is_whole = False
        try:
            connection.send(head_of(parcel, offer=offer))
            is_whole = connection.receive(Arrived).is_whole
        finally:
            self._transfers.forget(offer, is_pulled=is_whole)
        self._is_checked |= is_whole
        return is_whole

    def _connected(self) -> Connection:
        if self._connection is None:
            connection = self._dial()
            with self._lock:
                self._connection = connection
            if self._is_closed:
                connection.cut()
            can_pull = connection.receive(Ways).can_pull
            if self._choice is None:
                self._choice = Choice(
                    self._pages_by,
                    both_can=can_pull and self._transfers is not None,
                )
        assert self._connection is not None
        return self._connection

    def _drop(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()


def _size(parcel: wires.Parcel) -> int:
    return parcel.pages.nbytes if parcel.pages is not None else 0
