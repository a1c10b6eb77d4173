"""Pages go from one pool to another in chunks of few compiled lengths.

    pages 5 9 2 7 1   ->   [5 9 2 7] [1]      gathered on the source, one row per page

A chunk is one array `[n, L, 2, K, S, H]`; a shorter one is filled up with the scratch
page, which is never written at the other end.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import jax
import numpy as np
from jax.sharding import AbstractMesh

from mell_jax.pallas_kernels import checksum_pages, gather_pages, scatter_pages
from mell_jax.scheduler.ids import Pages
from mell_jax.scheduler.pages import SCRATCH_PAGE
from mell_jax.scheduler.plan import Places
from mell_jax.worker.device import DeviceWorker
from mell_jax.worker.group import POOL, WHOLE

CHUNK_PAGES = (16, 4, 1)
"""Lengths that are compiled, longest first."""


class _Awaited(Protocol):
    """Every array has this, though jax declares it of none."""

    def is_ready(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTransfer:
    """A transfer holds pages: `chunks` have those of `places` and then padding."""

    chunks: tuple[jax.Array, ...]
    places: Places  # in the sequence
    is_lost: bool = False  # never arrives: a fault for tests

    @property
    def count(self) -> int:
        """Returns the number of pages."""
        return len(self.places)

    @property
    def is_ready(self) -> bool:
        """Returns whether everything has arrived where it was put."""
        is_there = all(cast(_Awaited, chunk).is_ready() for chunk in self.chunks)
        return is_there and not self.is_lost

    @property
    def is_awaited(self) -> bool:
        """Returns whether to wait for it before it is written.

        Writing a long one at once would hold up the steps beside it until it is there.
        """
        return self.is_lost or (self.count > CHUNK_PAGES[1] and not self.is_ready)

    @property
    def nbytes(self) -> int:
        return sum(chunk.nbytes for chunk in self.chunks)


def pack(
    worker: DeviceWorker, pages: Pages, *, places: Places | None = None
) -> PageTransfer:
    """Reads `pages` as they are after every step that was dispatched so far.

    Args:
      places: of these pages in a sequence; its first ones by default.
    """
    layout = worker.group.layout
    chunks = tuple(_gather(worker.pool, ids, layout=layout) for ids in _ids(pages))
    return PageTransfer(chunks=chunks, places=places or Places.in_order(len(pages)))


def unpack(worker: DeviceWorker, transfer: PageTransfer, pages: Pages) -> None:
    """Writes a transfer to `pages` before every step that is dispatched from now on.

    What would go to the scratch page is not written.
    """
    assert len(pages) == transfer.count, f"{transfer.count} pages for {len(pages)}"
    for chunk, ids in zip(transfer.chunks, _ids(pages), strict=True):
        worker.replace_pool(partial(scatter_pages, page_ids=ids, pages=chunk))


def checksums(transfer: PageTransfer) -> list[int]:
    """Returns one number per page, equal at both ends of a good copy; waits for it."""
    sums = [np.asarray(checksum_pages(chunk)) for chunk in transfer.chunks]
    return [int(value) for part in sums for value in part]


def warm_up(worker: DeviceWorker) -> None:
    """Compiles what packs and unpacks, so that nothing compiles later."""
    for length in CHUNK_PAGES:
        scratch = np.full(length, SCRATCH_PAGE, np.int32)
        chunk = _gather(worker.pool, scratch, layout=worker.group.layout)
        checksum_pages(chunk)
        worker.replace_pool(partial(scatter_pages, page_ids=scratch, pages=chunk))


@functools.partial(jax.jit, static_argnames="layout")
def _gather(
    pool: jax.Array, page_ids: jax.Array, *, layout: AbstractMesh | None
) -> jax.Array:
    """Reads pages [n, 2L, KS, H], laid out as the pool: each device its own part.

    Left to itself, XLA gathers the parts of the whole pool on every device.
    """
    if layout is None:
        pages: jax.Array = gather_pages(pool, page_ids)
        return pages
    local = jax.shard_map(
        gather_pages,
        mesh=layout,
        in_specs=(POOL, WHOLE),
        out_specs=POOL,
        check_vma=False,  # copies of a head's pages are alike
    )
    pages = local(pool, page_ids)
    return pages


def _ids(pages: Pages) -> Iterator[Pages]:
    """Yields page ids chunk by chunk, padded with the scratch page."""
    start = 0
    while start < len(pages):
        left = len(pages) - start
        length = next((n for n in CHUNK_PAGES if n <= left), CHUNK_PAGES[-1])
        yield pages[start : start + length]
        start += length
