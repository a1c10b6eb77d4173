"""Guides of an instance's rows work on threads of their own while the model runs.

    open, advance -> [compile thread | fill thread] -> said, and a bell rings
                                                         |
    engine's thread:  news()  <--------------------------'

What a guide says is a function of (grammar, tokens), so nothing of it is ever moved: a
copy elsewhere is opened with the tokens that the request has. See `mell_jax.grammar`.
"""

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, final

import numpy as np
import numpy.typing as npt

from mell_jax import grammar as grammars
from mell_jax.engine.fair_thread import FairThread
from mell_jax.engine.slots import Request
from mell_jax.grammar import GrammarError, Guidance
from mell_jax.grammar.guidance import Mask
from mell_jax.scheduler.ids import Serial

if TYPE_CHECKING:  # llguidance is loaded where a model's tokens are known
    from mell_jax.grammar import Guide, GuideMaker, TokenTable

Ring = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A guide has said this; there is no guide where none could be made."""

    guide: "Guide | None"
    guidance: Guidance


@final
class GuideShop:
    """A shop makes the guides of a model, for all of its instances.

    Args:
      ring: tells the engine's thread that something was said; from any thread.
      least_forced: see `GuideMaker`.
    """

    def __init__(self, *, ring: Ring, least_forced: int = 1) -> None:
        self.ring = ring
        self._least_forced = least_forced
        self._maker: Future[GuideMaker] | None = None
        self._compiling = FairThread("mell-grammar")
        self._filling = ThreadPoolExecutor(1, thread_name_prefix="mell-mask")

    def learn(self, table: "TokenTable") -> None:
        """Begins to compile what the tokens of the model write, in the background."""
        # Nothing is filled before there is a maker.
        self._maker = self._filling.submit(
            grammars.GuideMaker, table, least_forced=self._least_forced
        )

    def open(self, request: Request, *, generated: Sequence[int]) -> Future[Followed]:
        """Begins to make a guide that has seen `generated`, when its tenant's turn is.

        A future that is cancelled in time is not worked for.
        """
        work = partial(self._open, request, generated)
        return self._compiling.submit(work, tenant=request.submit.tenant)

    def _open(self, request: Request, generated: Sequence[int]) -> Followed:
        grammar, maker = request.params.grammar, self._maker
        assert grammar is not None, "only a request with a grammar has a guide"
        if maker is None:
            raise GrammarError("cannot be followed: the model's tokens are not known")
        guide = maker.result().make(
            grammar, stop_ids=request.stop_ids, forces=may_be_forced(request)
        )
        return Followed(guide=guide, guidance=guide.advance(generated))

    def advance(self, guide: "Guide", token: int) -> Future[Followed]:
        """Begins to tell a guide the next token."""
        return self._filling.submit(_advance, guide, token)

    def close(self) -> None:
        """Lets the threads end with what they do now."""
        self._compiling.close()
        self._filling.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True, kw_only=True)
class _Row:
    """A row has no guide until it is made, and no mask while it is not known."""

    opening: Future[Followed] | None = None
    guide: "Guide | None" = None
    mask: Mask | None = None


@final
class InstanceGuides:
    """The guides of one instance, by serial; its engine's thread calls them.

    Args:
      shop: of the model; None where no request may have a grammar.
      vocab_size: V.
    """

    def __init__(self, shop: GuideShop | None, *, vocab_size: int) -> None:
        self._shop = shop
        self._words = -(-vocab_size // 32)
        self._rows: dict[Serial, _Row] = {}
        self._said = queue.SimpleQueue[tuple[Serial, _Row, Followed]]()

    def open(self, request: Request, *, generated: Sequence[int]) -> None:
        """Begins to follow a request from the tokens that it has generated."""
        assert self._shop is not None, "the model has no shop for guides"
        row = self._rows[request.serial] = _Row()
        row.opening = self._shop.open(request, generated=generated)
        row.opening.add_done_callback(partial(self._hear, request.serial, row))

    def advance(self, serial: Serial, token: int) -> None:
        """Begins to find out what may follow a token that was sampled."""
        assert self._shop is not None, "the model has no shop for guides"
        row = self._rows[serial]
        assert row.guide is not None, f"{serial} sampled without its guide"
        row.mask = None
        telling = self._shop.advance(row.guide, token)
        telling.add_done_callback(partial(self._hear, serial, row))

    @property
    def num_followed(self) -> int:
        """Returns how many requests are followed."""
        return len(self._rows)

    def is_filling(self, *, but: Callable[[Serial], bool]) -> bool:
        """Returns whether a mask behind a token is on its way, but for some."""
        return any(
            row.guide is not None and row.mask is None and not but(serial)
            for serial, row in self._rows.items()
        )

    @property
    def has_news(self) -> bool:
        """Returns whether something was said since `news`."""
        return not self._said.empty()

    def news(self, *, but: Callable[[Serial], bool]) -> list[tuple[Serial, Guidance]]:
        """Returns what guides have said, of requests that are still followed.

        Args:
          but: whose news are not to be told yet.
        """
        found = []
        for _ in range(self._said.qsize()):
            serial, row, followed = self._said.get()
            if self._rows.get(serial) is not row:
                continue
            if but(serial):
                self._said.put((serial, row, followed))
                continue
            row.guide, row.mask = followed.guide, followed.guidance.mask
            found.append((serial, followed.guidance))
        return found

    def forget(self, serial: Serial) -> None:
        """Drops a guide, whatever it is doing; one that waits is not made any more."""
        row = self._rows.pop(serial, None)
        if row is not None and row.opening is not None:
            row.opening.cancel()

    def masks(
        self, serials: npt.NDArray[np.int64], *, count: int
    ) -> npt.NDArray[np.int32]:
        """Returns i32[count, ceil(V / 32)]: all may be sampled where none is followed.

        Args:
          serials: [b] of the rows that sample; the rest is padding.
          count: B.
        """
        masks = np.full((count, self._words), -1, np.int32)
        for index, serial in enumerate(serials.tolist()):
            row = self._rows.get(Serial(serial))
            if row is not None:
                assert row.mask is not None, f"{serial} samples without its mask"
                masks[index] = row.mask
        return masks

    def _hear(self, serial: Serial, row: _Row, done: Future[Followed]) -> None:
        """Passes on what a guide says, or that it is lost; on any thread."""
        if done.cancelled():
            return  # the request or the engine ends
        error = done.exception()
        lost = Followed(guide=None, guidance=_as_guidance(error)) if error else None
        self._said.put((serial, row, lost or done.result()))
        assert self._shop is not None, "a shop has been asked"
        self._shop.ring()


def may_be_forced(request: Request) -> bool:
    """Returns whether tokens may be taken that no step has sampled.

    They have no log probabilities, and no step has counted them for penalties.
    """
    params = request.params
    return params.logprobs is None and not params.has_penalty


def _advance(guide: "Guide", token: int) -> Followed:
    return Followed(guide=guide, guidance=guide.advance([token]))


def _as_guidance(error: BaseException) -> Guidance:
    """Returns the end of a request whose guide is lost; a bug says so in its text."""
    if isinstance(error, GrammarError):
        return Guidance(error=str(error))
    return Guidance(error=f"cannot be followed: {type(error).__name__}: {error}")
