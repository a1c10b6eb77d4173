"""The books of one host: which copies it holds, and how many pages each was granted."""

from collections.abc import Iterator
from dataclasses import dataclass

from mell_jax.scheduler.ids import (
    CopyId,
    DeviceGroupId,
    FrontId,
    RequestId,
    front_of,
)


@dataclass(slots=True, kw_only=True)
class Held:
    """A copy is on a device, or is to be."""

    request: RequestId
    device: DeviceGroupId
    pages: int  # granted
    is_row: bool  # it runs, or did until it ended; else pages are kept for it
    wanted: int = 0  # in all, and not granted yet

    @property
    def front(self) -> FrontId:
        """Returns the front end that has its stream."""
        return front_of(self.request)

    @property
    def lacks(self) -> bool:
        """Returns whether it waits for pages."""
        return self.wanted > self.pages


class Granted:
    """The books are in the order in which copies came."""

    def __init__(self) -> None:
        self.copies: dict[CopyId, Held] = {}

    def open(
        self,
        copy_id: CopyId,
        *,
        request: RequestId,
        device: DeviceGroupId,
        pages: int,
        is_row: bool,
    ) -> None:
        """Enters a copy; or what was kept for it is a row now."""
        held = self.copies.get(copy_id)
        if held is None:
            held = self.copies[copy_id] = Held(
                request=request, device=device, pages=0, is_row=False
            )
        held.is_row |= is_row
        held.pages = max(held.pages, pages)

    def on(self, device: DeviceGroupId) -> list[CopyId]:
        """Returns the copies on a device."""
        return [copy for copy, held in self.copies.items() if held.device == device]

    def of(self, front: FrontId) -> list[CopyId]:
        """Returns the copies of a front end's requests."""
        return [copy for copy, held in self.copies.items() if held.front == front]

    def older(self, request: RequestId, *, than: CopyId) -> list[CopyId]:
        """Returns the copies of a request that were named before another one."""
        return [
            copy_id
            for copy_id, held in self.copies.items()
            if held.request == request and copy_id < than
        ]

    def pages_on(self, device: DeviceGroupId) -> int:
        """Returns the pages that copies on a device were granted."""
        return sum(h.pages for h in self.copies.values() if h.device == device)

    def lacking(self, device: DeviceGroupId) -> Iterator[CopyId]:
        """Yields the rows on a device that wait for pages, oldest first."""
        for copy_id in self.on(device):
            held = self.copies[copy_id]
            if held.is_row and held.lacks:
                yield copy_id

    def newest_of_stuck(self, device: DeviceGroupId) -> CopyId | None:
        """Returns the newest row on a device if all of them wait for pages."""
        rows = [copy for copy in self.on(device) if self.copies[copy].is_row]
        is_stuck = rows and all(self.copies[copy].lacks for copy in rows)
        return rows[-1] if is_stuck else None
