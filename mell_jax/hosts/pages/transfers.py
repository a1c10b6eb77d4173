"""Pages by `jax.experimental.transfer`: a target pulls what a source has offered.

    source   offer(arrays) -> Offer ---- in a parcel's head ---> pull(Offer)   target
             forget(Offer) <------------ Arrived ---------------

What it does not do by itself is done here. A server without addresses for its data ends
the source's process at the first pull, so it gets one. Arrays are kept until the target
has answered. A pull of what was never offered, or from somebody who is gone, is never
over, so every pull has its time. Nobody proves anything to such a server, and nothing
is encrypted: whoever reaches it and guesses one of 2**62 numbers gets pages.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Sequence
from typing import Any, final

import jax
from absl import logging
from jax.experimental import transfer

from mell_jax.engine.fleet.page_transfer import PageTransfer, checksums
from mell_jax.hosts.address import split_address
from mell_jax.hosts.wire import Offer
from mell_jax.scheduler.plan import Places

_LOOK_S = 0.0005
_LEAST_S = 10.0
_LEAST_BYTES_PER_S = 2**23
"""A pull takes no longer than at this speed, and the seconds above."""


class PullError(OSError):
    """Pages did not come, or not as they were offered."""


@final
class Transfers:
    """Offers pages of this process, and pulls those of others.

    Args:
      address: the interface, and any port, where others may pull.

    Raises:
      RuntimeError: jax has no such server here.
    """

    def __init__(self, address: str) -> None:
        host, _ = split_address(address)
        at = f"[{host}]:0" if ":" in host else f"{host}:0"
        client = jax.local_devices()[0].client
        self._server = transfer.start_transfer_server(client, at, [at])
        self._lock = threading.Lock()  # of the two below
        self._offered: dict[int, tuple[jax.Array, ...]] = {}
        self._connections: dict[str, Any] = {}

    @property
    def kept(self) -> int:
        """Returns how many offers nobody has answered."""
        with self._lock:
            return len(self._offered)

    def offer(self, chunks: tuple[jax.Array, ...], *, with_sums: bool) -> Offer:
        """Offers arrays to whoever knows what is returned; once.

        Args:
          with_sums: the target is to look whether they have come as they are.
        """
        number = secrets.randbits(62)
        sums = tuple(checksums(_transfer_of(chunks))) if with_sums else ()
        with self._lock:
            self._offered[number] = chunks
        self._server.await_pull(number, list(chunks))
        return Offer(
            number=number,
            address=self._server.address(),
            shards=len(chunks[0].sharding.device_set),
            sums=sums,
        )

    def forget(self, offer: Offer, *, is_pulled: bool) -> None:
        """Ends an offer; the server keeps one that nobody has pulled, but for this."""
        with self._lock:
            chunks = self._offered.pop(offer.number, ())
        if chunks and not is_pulled:
            with contextlib.suppress(PullError):  # then the target has it half
                self._pulled(offer, chunks, most_s=_LEAST_S)

    def pull(
        self,
        offer: Offer,
        shapes: Sequence[tuple[int, ...]],
        *,
        dtype: Any,
        sharding: jax.sharding.Sharding,
    ) -> tuple[jax.Array, ...]:
        """Returns what another process has offered, once it is here.

        Raises:
          PullError: it does not come in time, or is not what was offered.
        """
        if len(sharding.device_set) != offer.shards:
            raise PullError(
                f"pages on {offer.shards} devices for {len(sharding.device_set)}"
            )
        wanted = [jax.ShapeDtypeStruct(s, dtype, sharding=sharding) for s in shapes]
        size = sum(one.size * one.dtype.itemsize for one in wanted)
        most_s = _LEAST_S + size / _LEAST_BYTES_PER_S
        chunks = self._pulled(offer, wanted, most_s=most_s)
        if offer.sums and tuple(checksums(_transfer_of(chunks))) != offer.sums:
            raise PullError("pages have other bits than were offered")
        return chunks

    def _pulled(
        self, offer: Offer, wanted: Sequence[Any], *, most_s: float
    ) -> tuple[jax.Array, ...]:
        specs = [
            jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=one.sharding)
            for one in wanted
        ]
        try:
            chunks: list[Any] = self._connected(offer.address).pull(offer.number, specs)
            end_s = time.monotonic() + most_s
            while not all(chunk.is_ready() for chunk in chunks):
                if time.monotonic() > end_s:
                    raise PullError(f"nothing comes within {most_s:.0f} s")
                time.sleep(_LOOK_S)
            jax.block_until_ready(chunks)
        except RuntimeError as error:
            self._forget_connection(offer.address)
            raise PullError(str(error)) from error
        except PullError:
            self._forget_connection(offer.address)
            raise
        return tuple(chunks)

    def _connected(self, address: str) -> Any:
        with self._lock:
            if address not in self._connections:
                self._connections[address] = self._server.connect(address)
            return self._connections[address]

    def _forget_connection(self, address: str) -> None:
        with self._lock:
            self._connections.pop(address, None)


def _transfer_of(chunks: tuple[jax.Array, ...]) -> PageTransfer:
    count = sum(chunk.shape[0] for chunk in chunks)
    return PageTransfer(chunks=chunks, places=Places.in_order(count))


def start_transfers(address: str) -> Transfers | None:
    """Returns what offers and pulls pages; None where jax cannot, as the log says."""
    try:
        return Transfers(address)
    except (RuntimeError, NotImplementedError) as error:
        logging.warning("pages cannot go by jax's transfers here: %s", error)
        return None
