"""The page pool counts who uses which page of the KV pool, and stacks free ones.

Page 0 is scratch and never handed out: padding writes go there. A page with references
is used; one without is either free (on the stack) or kept by the prefix cache, which
gives it back through `give_back`. The pool itself never decides which.
"""

from dataclasses import dataclass

import numpy as np

from mell_jax.scheduler.ids import Pages

SCRATCH_PAGE = 0


class OutOfPagesError(RuntimeError):
    """`PagePool.take` raises this when fewer pages are free than asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageCounts:
    """The counts say where pages are; `free + cached + used` is always `total`."""

    total: int  # without the scratch page
    free: int
    cached: int  # without references, content kept for a later prompt
    used: int


class PagePool:
    """The pool holds reference counts of pages 1..num_pages-1."""

    def __init__(self, num_pages: int) -> None:
        if not (num_pages >= 2):
            raise ValueError(
                f"a pool needs a scratch page and at least one more, got {num_pages}"
            )
        self.num_pages = num_pages
        self.references = np.zeros(num_pages, np.int32)
        self._stack = np.arange(num_pages - 1, 0, -1, dtype=np.int32)
        self._num_free = num_pages - 1

    @property
    def num_free(self) -> int:
        return self._num_free

    def take(self, count: int) -> Pages:
        """Hands out `count` pages with one reference each.

        Raises:
          OutOfPagesError: when fewer are free; nothing is taken then.
        """
        if not (0 <= count <= self._num_free):
            raise OutOfPagesError(f"{count} pages asked for, {self._num_free} free")
        self._num_free -= count
        pages = self._stack[self._num_free : self._num_free + count].copy()
        self.references[pages] = 1
        return pages

    def retain(self, pages: Pages) -> None:
        """Adds one reference to each of `pages` (distinct)."""
        self.references[pages] += 1

    def drop(self, pages: Pages) -> Pages:
        """Takes one reference from each of `pages` (distinct).

        Returns those that have none left; they are not free until given back.
        """
        self.references[pages] -= 1
        left = self.references[pages]
        assert (left >= 0).all(), f"pages {pages[left < 0]} dropped more than retained"
        unused: Pages = pages[left == 0]
        return unused

    def give_back(self, pages: Pages) -> None:
        """Puts pages without references on the free stack."""
        assert (self.references[pages] == 0).all(), f"{pages} still referenced"
        self._stack[self._num_free : self._num_free + len(pages)] = pages
        self._num_free += len(pages)

    def free_pages(self) -> Pages:
        """Returns a copy of the free pages; the next to be taken comes last."""
        return self._stack[: self._num_free].copy()
