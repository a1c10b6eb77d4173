"""Accounts say where a request is, what an instance holds, and which moves are open.

The ledger owns and changes them; policies read them.
"""

import math
from dataclasses import dataclass

from mell_jax.scheduler.ids import DeviceGroupId, KindId, ModelId, MoveId, RequestId
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.placement.kind_books import KindBooks
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.tenants import TenantAccount


class RequestAccount:
    """A live request has an owner, `device`, or waits (None)."""

    __slots__ = (
        "device",
        "first_pages",
        "held_until_s",
        "id",
        "is_again",
        "model",
        "move",
        "pages",
        "peak_pages",
        "queued_s",
        "serial",
        "tenant",
    )

    def __init__(
        self,
        request: RequestId,
        *,
        serial: int,
        model: ModelId,
        pages: int,
        peak_pages: int | None,
        tenant: TenantAccount,
        queued_s: float = 0.0,
    ) -> None:
        self.id = request
        self.tenant = tenant
        self.serial = serial  # order of arrival
        self.model = model
        self.pages = pages
        self.first_pages = pages
        self.peak_pages = peak_pages
        self.queued_s = queued_s  # when it arrived, or was last preempted
        self.held_until_s = -math.inf  # a policy lets it wait, by its own choice
        self.device: DeviceGroupId | None = None
        self.move: MoveId | None = None  # set while a move is in flight
        self.is_again = False  # it had a place, and has lost it

    @property
    def most_pages(self) -> int:
        """Returns the most it is known to need; its kind of device must hold it."""
        peak = self.peak_pages
        return self.pages if peak is None or peak < self.pages else peak

    def ahead(self, free: int, *, pages: int, most: int) -> int:
        """Returns how many of `free` pages it may have beyond `pages`: at most `most`.

        Those beyond its known peak it will never need.
        """
        if self.peak_pages is not None:
            most = min(most, self.peak_pages - pages)
        return max(0, min(free, most))


class InstanceAccount:
    """A device group serves a model here; policies read it only."""

    __slots__ = (
        "arriving",
        "books",
        "device",
        "is_closing",
        "is_filed",
        "leaving_pages",
        "model",
        "opened_s",
        "pages",
        "projected",
        "requests",
        "rows",
        "serial",
        "stalled",
    )

    def __init__(
        self,
        device: DeviceGroupId,
        *,
        model: ModelId,
        books: KindBooks,
        serial: int,
        opened_s: float,
    ) -> None:
        self.device = device
        self.model = model
        self.books = books  # of its model on its kind of devices
        self.serial = serial  # counts activations: larger is more recent
        self.opened_s = opened_s  # at the tick before
        self.pages = 0  # lives here, leaving, or reserved
        self.rows = 0  # requests behind `pages`
        self.projected = 0  # room for one more after the look-ahead; may be negative
        self.is_filed = False  # in the index, under `projected`
        self.requests: dict[
            RequestId, RequestAccount
        ] = {}  # live here, not being moved
        self.leaving_pages = 0
        self.arriving: dict[RequestId, RequestAccount] = {}  # moves in flight to here
        self.stalled: dict[RequestId, int] = {}  # pages wanted in all, no room yet
        self.is_closing = False  # to be given back: takes nothing new

    @property
    def spec(self) -> ModelSpec:
        """Returns what it can hold."""
        return self.books.spec

    @property
    def kind(self) -> KindId:
        return self.books.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A move in flight holds the pages of its request at both ends."""

    request: RequestAccount
    move: plan.Move

    @property
    def source(self) -> DeviceGroupId:
        return self.move.source

    @property
    def target(self) -> DeviceGroupId:
        return self.move.target
