"""Puts layers into groups, so that a page holds as many layers whatever its group.

    windows of layers   w w w w w -  w w w w w -     as in Gemma 3
    groups              0: the two that see all      1 to 5: two of the others each

Pages of all groups are alike, so they come from one pool, and memory goes to whoever
needs it. A group that is short of layers leaves room in its pages. vLLM's hybrid
allocator cuts layers likewise.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mell_jax.scheduler.cache_spec import CacheSpec

MAX_GROUPS = 8
"""Each has a table of pages, which goes to the device with every step."""
MIN_GAIN = 0.05
"""Groups have to save so much of a long sequence's memory, or there is one alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLayout:
    """A layout says where the keys and values of each layer lie."""

    windows: tuple[int | None, ...]  # of each group; None sees everything
    layers_per_page: int
    places: tuple[tuple[int, int], ...]  # of a layer: its group, which layer of it

    def spec(self, *, page_tokens: int, token_budget: int) -> CacheSpec:
        """Returns what a sequence holds if a step computes at most `token_budget`."""
        return CacheSpec.of_windows(
            self.windows, page_tokens=page_tokens, most_chunk_tokens=token_budget
        )


def lay_out(windows: Sequence[int | None], *, context: int) -> CacheLayout:
    """Returns the layout that takes least memory for a sequence of the full context.

    Args:
      windows: of each layer, in tokens; None for one that sees everything.
      context: the most tokens of a sequence; windows of so many see everything.

    Raises:
      ValueError: there is no layer, or a window or the context is not positive.
    """
    _check(windows, context=context)
    windows = [None if one is None or one >= context else one for one in windows]
    kinds = Counter(sorted(windows, key=_size))  # widest first
    pages = _most_pages(kinds, context=context)
    whole = len(windows) * max(pages.values())
    best, least = 0, whole * (1.0 - MIN_GAIN)
    for size in range(1, max(kinds.values()) + 1):
        groups = {window: -(-count // size) for window, count in kinds.items()}
        held = sum(size * number * pages[kind] for kind, number in groups.items())
        if sum(groups.values()) <= MAX_GROUPS and held <= least:  # few groups, rather
            best, least = size, held
    if best == 0:
        return _one_group(windows)
    return _grouped(windows, kinds=kinds, size=best)


def _check(windows: Sequence[int | None], *, context: int) -> None:
    if not windows:
        raise ValueError("a model has at least one layer, got no windows")
    if not (context >= 1):
        raise ValueError(f"the context must be >= 1 token, got {context}")
    for layer, window in enumerate(windows):
        if window is not None and not (window >= 1):
            raise ValueError(
                f"the window of layer {layer} must be >= 1 token, got {window}: "
                "None sees everything"
            )


def _one_group(windows: Sequence[int | None]) -> CacheLayout:
    places = tuple((0, layer) for layer in range(len(windows)))
    return CacheLayout(
        windows=(min(windows, key=_size),), layers_per_page=len(windows), places=places
    )


def _grouped(
    windows: Sequence[int | None], *, kinds: Iterable[int | None], size: int
) -> CacheLayout:
    of_groups: list[int | None] = []
    places: dict[int, tuple[int, int]] = {}
    for kind in kinds:
        layers = [layer for layer, window in enumerate(windows) if window == kind]
        for start in range(0, len(layers), size):
            for index, layer in enumerate(layers[start : start + size]):
                places[layer] = len(of_groups), index
            of_groups.append(kind)
    return CacheLayout(
        windows=tuple(of_groups),
        layers_per_page=size,
        places=tuple(places[layer] for layer in range(len(windows))),
    )


def _most_pages(kinds: Iterable[int | None], *, context: int) -> dict[int | None, int]:
    """Returns what a layer of each kind keeps of the longest sequence."""
    of_kinds = tuple(kinds)
    spec = CacheSpec.of_windows(of_kinds, most_chunk_tokens=context)
    whole = spec.pages(context)
    return {
        kind: whole if group.ring is None else min(whole, group.ring)
        for kind, group in zip(of_kinds, spec.groups, strict=True)
    }


def _size(window: int | None) -> float:
    """Sorts the widest first."""
    return -math.inf if window is None else -window
