"""Pages outlive their request here, and are found again by the tokens they hold.

A full page is known by a digest of its salt, of the generation of the weights that
computed it and of *all* tokens up to its end, so equal keys mean equal content whatever
came before:

    key(0) = H(H(generation | salt) | t0..t15)    key(1) = H(key(0) | t16..t31)    ...

A page that loses its last reference stays, least recently used first to go, until its
room is needed. Callers allocate and release through this class alone.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from mell_jax.scheduler.ids import PageId, PageKey, Pages, Tokens
from mell_jax.scheduler.pages import SCRATCH_PAGE, PageCounts, PagePool

DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A page has become findable: that of `tokens`, after those of `parent`.

    `parent` is None for the first page of a prompt.
    """

    key: PageKey
    parent: PageKey | None
    tokens: tuple[int, ...]
    group: int  # of layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """A page is findable no more."""

    key: PageKey


CacheNews = Stored | Removed


def page_keys(
    tokens: Tokens, *, page_tokens: int, salt: bytes, generation: int = 0
) -> list[PageKey]:
    """Returns keys of the full pages of `tokens` [T]; T // page_tokens of them."""
    keys: list[PageKey] = []
    parent = root_key(salt, generation=generation)
    data = np.ascontiguousarray(tokens, np.int32)
    for start in range(0, len(data) - page_tokens + 1, page_tokens):
        parent = next_key(parent, data[start : start + page_tokens])
        keys.append(parent)
    return keys


def root_key(salt: bytes, *, generation: int = 0) -> PageKey:
    """Returns the parent of every first page under `salt` (any length)."""
    # Personalised: no salt, which a client may choose, hashes to the key of a page, or
    # to a root of another generation.
    person = b"salt" + generation.to_bytes(12, "little")
    digest = hashlib.blake2b(salt, digest_size=DIGEST_BYTES, person=person)
    return PageKey(digest.digest())


def next_key(parent: PageKey, tokens: Tokens) -> PageKey:
    """Returns the key of the page that holds `tokens` after those of `parent`."""
    digest = hashlib.blake2b(parent, digest_size=DIGEST_BYTES)
    digest.update(tokens.tobytes())
    return PageKey(digest.digest())


def group_key(key: PageKey, group: int) -> PageKey:
    """Returns the key of the page that a group of layers has of the same tokens."""
    return key if group == 0 else PageKey(key + group.to_bytes(2, "little"))


class PrefixCache:
    """The cache allocates pages, and finds those that hold a prompt's beginning.

    Args:
      news: what becomes findable, or is so no more, is added there; its owner takes it
        away. None: nobody wants to know.
    """

    def __init__(self, pool: PagePool, *, news: list[CacheNews] | None = None) -> None:
        self.news = news
        self._pool = pool
        self._page_of: dict[PageKey, PageId] = {}
        self._key_of: dict[PageId, PageKey] = {}
        self._idle: OrderedDict[PageId, None] = OrderedDict()  # oldest first

    @property
    def num_available(self) -> int:
        """Returns how many pages `allocate` can hand out: free and idle cached ones."""
        return self._pool.num_free + len(self._idle)

    @property
    def counts(self) -> PageCounts:
        total = self._pool.num_pages - 1
        free, cached = self._pool.num_free, len(self._idle)
        return PageCounts(
            total=total, free=free, cached=cached, used=total - free - cached
        )

    def match(self, keys: Sequence[PageKey]) -> Pages:
        """Returns pages of the longest known prefix of `keys`; takes no reference."""
        pages: list[PageId] = []
        for key in keys:
            page = self._page_of.get(key)
            if page is None:
                break
            pages.append(page)
        return np.array(pages, np.int32)

    def find(self, keys: Iterable[PageKey]) -> Pages:
        """Returns the page of each of `keys`, the scratch page where it is unknown."""
        scratch = PageId(SCRATCH_PAGE)
        return np.array([self._page_of.get(key, scratch) for key in keys], np.int32)

    def count_idle(self, pages: Pages) -> int:
        """Returns how many of `pages` are idle: acquired, they are not available."""
        return sum(page in self._idle for page in pages.tolist())

    def is_shared(self, page: PageId) -> bool:
        """Returns whether several requests use a page."""
        return bool(self._pool.references[page] > 1)

    def renew(self, page: PageId, *, keeps: bool) -> PageId:
        """Returns a page in the place of one whose content its request is done with.

        That is the same if nobody else uses it and its content is not to be kept; else
        another is allocated.
        """
        if not keeps and not self.is_shared(page):
            self.forget(np.array([page], np.int32))
        if page not in self._key_of and not self.is_shared(page):
            return page
        self.release(np.array([page], np.int32))
        return PageId(int(self.allocate(1)[0]))

    def acquire(self, pages: Pages) -> None:
        """Adds a reference to matched pages (distinct)."""
        for page in pages.tolist():
            self._idle.pop(page, None)
        self._pool.retain(pages)

    def allocate(self, count: int) -> Pages:
        """Hands out `count` pages, forgetting the least recently used if need be.

        Raises:
          OutOfPagesError: when fewer than `count` are available; nothing changes then.
        """
        missing = count - self._pool.num_free
        if 0 < missing <= len(self._idle):
            self._evict(missing)
        return self._pool.take(count)

    def insert(self, key: PageKey, page: PageId) -> bool:
        """Makes `page` findable; returns whether it is so by this key now.

        A key that is known keeps the page it has.
        """
        if key in self._page_of or page in self._key_of:
            return False
        self._page_of[key] = page
        self._key_of[page] = key
        return True

    def release(self, pages: Pages) -> None:
        """Takes a reference from each page of one request, given in prompt order.

        Known pages stay idle, the end of the prompt to be forgotten first; the rest
        is free.
        """
        unused = self._pool.drop(pages)
        known = [page in self._key_of for page in unused.tolist()]
        for page in reversed(unused[known].tolist()):
            self._idle[page] = None
        self._pool.give_back(unused[np.logical_not(known)])

    def forget(self, pages: Pages) -> None:
        """Makes `pages` unfindable; those without references are free at once."""
        idle: list[PageId] = []
        for page in pages.tolist():
            key = self._key_of.pop(page, None)
            if key is not None:
                del self._page_of[key]
                if self.news is not None:
                    self.news.append(Removed(key=key))
            if page in self._idle:
                del self._idle[page]
                idle.append(page)
        self._pool.give_back(np.array(idle, np.int32))

    def clear(self) -> int:
        """Frees every idle page; returns how many."""
        count = len(self._idle)
        self._evict(count)
        return count

    def forget_all(self) -> int:
        """Makes every page unfindable, those in use too; returns how many."""
        known = list(self._key_of)
        self.forget(np.array(known, np.int32))
        return len(known)

    @property
    def known_keys(self) -> list[PageKey]:
        """Returns the keys of all pages that can be found."""
        return list(self._page_of)

    def knows(self, key: PageKey) -> bool:
        return key in self._page_of

    def _evict(self, count: int) -> None:
        self.forget(np.array(list(islice(self._idle, count)), np.int32))
