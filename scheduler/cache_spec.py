"""Says which pages a sequence holds: all that it filled, or those that a window sees.

Layers come in groups; a page holds the keys and values of 16 tokens in the layers of
one group. Pages of all groups have one size and come from one pool.

    tokens        0 .. 15 | 16 .. 31 | 32 .. 47 | 48 .. 63 |
    full group    page 5    page 2     page 7     page 3        all of them
    windowed      -         -          page 9     page 4        a ring of R pages

A windowed group keeps R pages: what a token may see, and what a step may add. Once it
has R, the next page takes the place of the oldest, which no token to come can see.
So what a sequence holds grows, and never shrinks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class PageGroup:
    """A group of layers of one window; without one it sees everything.

    Raises:
      ValueError: only one of window and ring is given, or one is not positive.
    """

    window: int | None = None  # tokens, the own one included
    ring: int | None = None  # most pages of a sequence

    def __post_init__(self) -> None:
        if (self.window is None) != (self.ring is None):
            raise ValueError("a window needs a ring of pages, and a ring a window")
        if self.window is not None and not (self.window >= 1):
            raise ValueError(f"window must be >= 1, got {self.window}")
        if self.ring is not None and not (self.ring >= 2):
            raise ValueError(f"ring must be >= 2 pages, got {self.ring}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSpec:
    """A spec tells what sequences of a model hold; one group that sees all by default.

    `pages` are counted along a sequence, 16 tokens each; `held` ones are of the pool.
    """

    page_tokens: int = 16
    groups: tuple[PageGroup, ...] = (PageGroup(),)
    chunk_tokens: int | None = None  # most tokens of a row in a step; None: any

    @classmethod
    def of_windows(
        cls,
        windows: Sequence[int | None],
        *,
        page_tokens: int = 16,
        most_chunk_tokens: int,
    ) -> Self:
        """Returns the spec of groups with these windows.

        Args:
          windows: of each group, in tokens; None for one that sees everything.
          page_tokens: tokens of a page.
          most_chunk_tokens: of a row in a step, where no window asks for less.
        """
        sizes = [window for window in windows if window is not None]
        if not sizes:
            groups = tuple(PageGroup() for _ in windows)
            return cls(page_tokens=page_tokens, groups=groups)
        chunk = min(most_chunk_tokens, max(*sizes, MIN_CHUNK_TOKENS))
        return cls(
            page_tokens=page_tokens,
            groups=tuple(
                PageGroup()
                if window is None
                else PageGroup(
                    window=window, ring=-(-(window - 1 + chunk) // page_tokens) + 1
                )
                for window in windows
            ),
            chunk_tokens=chunk,
        )

    @property
    def num_groups(self) -> int:
        return len(self.groups)

    @property
    def is_plain(self) -> bool:
        """Returns whether there is one group, which keeps everything."""
        return len(self.groups) == 1 and self.groups[0].ring is None

    def pages(self, tokens: int) -> int:
        """Returns the pages that so many tokens fill, the last maybe in part."""
        return -(-tokens // self.page_tokens)

    def held(self, pages: int) -> int:
        """Returns how many pages of the pool a sequence of `pages` holds."""
        return sum(
            pages if group.ring is None else min(pages, group.ring)
            for group in self.groups
        )

    def held_by(self, tokens: int) -> int:
        """Returns how many pages of the pool a sequence of `tokens` holds."""
        return self.held(self.pages(tokens))

    def reach(self, held: int, *, most: int) -> int:
        """Returns the longest sequence, in pages, that `held` of the pool are enough
        for; at most `most`.
        """
        if self.is_plain:
            return min(held, most)
        low, high = 0, most
        while low < high:  # `held` rises: the last that fits
            middle = (low + high + 1) // 2
            if self.held(middle) <= held:
                low = middle
            else:
                high = middle - 1
        return low

    def first_seen(self, group: int, *, position: int) -> int:
        """Returns the first page that a token at `position` sees in a group."""
        window = self.groups[group].window
        if window is None:
            return 0
        return max(position - window + 1, 0) // self.page_tokens


MIN_CHUNK_TOKENS = 256
"""A row may compute so many tokens in a step however small its windows are."""
KEEPS_ALL = CacheSpec()
"""One group of layers that see everything."""
