"""Prompts begin alike: what an instance has computed of one it need not compute again.

    blocks of a prompt   7 7 3 9      an instance that knows 7 7 3 computes the rest

Prompts come as blocks of a trace, each named by its content and all before it. As in
the engine, an instance finds a block once the prompt that has it is computed, until it
is parked; blocks that no request uses go first, least recently used, when their pages
are wanted. The books charge every request for all its pages, shared or not, but a block
that is shared is in the pool once.
"""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import final

import numpy as np
import numpy.typing as npt

from mell_jax.scheduler.ids import DeviceGroupId, ModelId, RequestId
from mell_jax.scheduler.placement.events import Cached
from mell_jax.scheduler.simulator.request import Request
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import Workload

Blocks = Sequence[int]


@final
class BlockCache:
    """The blocks that one instance finds, in use or idle, and the room that is left."""

    def __init__(self, *, capacity_pages: int, block_pages: int) -> None:
        self._capacity = capacity_pages
        self._block_pages = block_pages
        self._users: Counter[int] = Counter()  # of blocks in use
        self._idle: OrderedDict[int, None] = OrderedDict()  # oldest first
        self._pages = 0  # that requests are charged for
        self._twice = 0  # blocks of these that are another's, too

    def match(self, blocks: Blocks) -> int:
        """Returns how many blocks, from the first on, are found."""
        for at, block in enumerate(blocks):
            if not self._users[block] and block not in self._idle:
                return at
        return len(blocks)

    def use(self, blocks: Blocks) -> None:
        """A request uses blocks, which are found from now on."""
        for block in blocks:
            self._idle.pop(block, None)
            self._twice += bool(self._users[block])
            self._users[block] += 1
        self._forget()

    def release(self, blocks: Blocks) -> None:
        """A request uses blocks no more; the end of its prompt is forgotten first."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block]:
                self._twice -= 1
            else:
                del self._users[block]
                self._idle[block] = None
        self._forget()

    def charge(self, pages: int) -> None:
        """Requests are charged for more pages, or fewer."""
        self._pages += pages
        self._forget()

    def _forget(self) -> None:
        used = self._pages - self._twice * self._block_pages
        room = max(0, self._capacity - used) // self._block_pages
        while len(self._idle) > room:
            self._idle.popitem(last=False)


class _Holding:
    """What a request has in the caches."""

    __slots__ = ("blocks", "device", "pages", "used")

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks  # of its prompt
        self.device: DeviceGroupId | None = None  # where it uses some
        self.used: Blocks = ()
        self.pages: dict[DeviceGroupId, int] = {}  # charged, two devices during a move


@final
class Prefixes:
    """The caches of a fleet, empty and of no effect if a workload has no blocks.

    Raises:
      ValueError: blocks are not of whole pages, or layers have windows.
    """

    def __init__(self, workload: Workload, *, settings: Settings) -> None:
        self.hit_tokens = 0
        self.asked_tokens = 0  # that had to be prefilled, hits included
        self._blocks = workload.blocks
        self._block_tokens = workload.block_tokens
        self._page_tokens = settings.page_tokens
        self._caches: dict[DeviceGroupId, BlockCache] = {}
        self._models: dict[DeviceGroupId, ModelId] = {}  # there now, or before
        self._holdings: dict[RequestId, _Holding] = {}
        if self._blocks is None:
            return
        if self._block_tokens % self._page_tokens:
            raise ValueError(
                f"blocks of {self._block_tokens} tokens are not of whole pages of "
                f"{self._page_tokens}: choose page_tokens that divides them"
            )
        if not settings.cache.is_plain:
            raise ValueError(
                "blocks are shared where all layers see everything: leave out windows "
                "or blocks"
            )

    @property
    def are_shared(self) -> bool:
        """Tells whether prompts have blocks at all."""
        return self._blocks is not None

    @property
    def _block_pages(self) -> int:
        return self._block_tokens // self._page_tokens

    # Instances.

    def opened(
        self, device: DeviceGroupId, *, model: ModelId, capacity_pages: int
    ) -> None:
        """An instance begins with an empty cache."""
        if self.are_shared:
            self._models[device] = model
            self._caches[device] = BlockCache(
                capacity_pages=capacity_pages, block_pages=self._block_pages
            )

    def closed(self, device: DeviceGroupId) -> None:
        """Its blocks are gone."""
        self._caches.pop(device, None)

    # Requests.

    def arrive(self, request: Request) -> tuple[Cached, ...]:
        """Returns what instances have of a new request's prompt."""
        if self._blocks is None:
            return ()
        whole = request.input_tokens // self._block_tokens
        blocks = self._blocks[request.id][:whole]
        self._holdings[request.id] = _Holding(blocks)
        found = (
            Cached(device=device, pages=cache.match(blocks) * self._block_pages)
            for device, cache in self._caches.items()
            if self._models[device] == request.model
        )
        return tuple(cached for cached in found if cached.pages)

    def charge(self, request: Request, device: DeviceGroupId, *, pages: int) -> None:
        """A request is charged for so many pages on a device, in all."""
        if self.are_shared:
            holding = self._holdings[request.id]
            self._caches[device].charge(pages - holding.pages.get(device, 0))
            holding.pages[device] = pages

    def begin(self, request: Request, *, total: int) -> int:
        """Uses what its device has of a prompt; returns the tokens that are found.

        Args:
          total: tokens to compute; the last one always has to be.
        """
        if self._blocks is None or request.device is None:
            return 0
        holding = self._holdings[request.id]
        self._release(holding)
        cache = self._caches[request.device]
        found = cache.match(holding.blocks)
        self._use(holding, request.device, holding.blocks[:found])
        most = (total - 1) // self._page_tokens * self._page_tokens
        return min(found * self._block_tokens, most)

    def count(self, *, hit: int, total: int) -> None:
        """A prompt of `total` tokens has begun, with `hit` of them found."""
        self.hit_tokens += hit
        self.asked_tokens += total

    def computed(self, request: Request) -> None:
        """Its device finds the blocks of a prompt from now on."""
        if self.are_shared:
            assert request.device is not None
            self._find(self._holdings[request.id], request.device)

    def count_cached(self, request: Request, device: DeviceGroupId) -> int:
        """Returns the tokens of a prompt that a device has."""
        if not self.are_shared:
            return 0
        found = self._caches[device].match(self._holdings[request.id].blocks)
        return found * self._block_tokens

    def moved(self, request: Request, *, target: DeviceGroupId) -> None:
        """A request is at its target, with the blocks that were computed."""
        if not self.are_shared:
            return
        holding = self._holdings[request.id]
        is_computed = len(holding.used) == len(holding.blocks)
        self._release(holding)
        for device in [device for device in holding.pages if device != target]:
            self._uncharge(holding, device)
        if is_computed:
            self._find(holding, target)

    def call_off(self, request: Request, *, target: DeviceGroupId) -> None:
        """A request does not move to a target after all."""
        if self.are_shared:
            self._uncharge(self._holdings[request.id], target)

    def leave(self, request: Request, *, has_ended: bool) -> None:
        """A request has no device any more; its blocks stay as long as there is room.

        One that has not ended may come back.
        """
        if not self.are_shared:
            return
        holding = self._holdings[request.id]
        self._release(holding)
        for device in list(holding.pages):
            self._uncharge(holding, device)
        if has_ended:
            del self._holdings[request.id]

    def _find(self, holding: _Holding, device: DeviceGroupId) -> None:
        """Makes a device find the blocks of a request, which uses all of them."""
        self._release(holding)
        self._use(holding, device, holding.blocks)

    def _use(self, holding: _Holding, device: DeviceGroupId, blocks: Blocks) -> None:
        holding.device, holding.used = device, blocks
        self._caches[device].use(blocks)

    def _release(self, holding: _Holding) -> None:
        cache = None if holding.device is None else self._caches.get(holding.device)
        if cache is not None:
            cache.release(holding.used)
        holding.device, holding.used = None, ()

    def _uncharge(self, holding: _Holding, device: DeviceGroupId) -> None:
        pages = holding.pages.pop(device)
        if device in self._caches:
            self._caches[device].charge(-pages)


def most_cached(workload: Workload) -> npt.NDArray[np.int64]:
    """Returns the tokens [n] that are found at best, by one cache that loses nothing.

    Every prompt would have to be computed before the next arrives.
    """
    tokens = np.zeros(len(workload), np.int64)
    known: set[tuple[str, int]] = set()
    for at, blocks in enumerate(workload.blocks or ()):
        model, given = workload.models[at], int(workload.input_tokens[at])
        found = 0
        for block in blocks[: given // workload.block_tokens]:
            if (model, block) not in known:
                break
            found += 1
        known.update((model, block) for block in blocks)
        tokens[at] = min(found * workload.block_tokens, given - 1)
    return tokens
