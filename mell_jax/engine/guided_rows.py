"""Guided rows are those with a grammar: what guides say becomes tokens, gates and ends.

gated    the mask of the next token is not known: the row waits, nobody for it
forced   tokens that the grammar has no choice about are added without a step
ended    the answer is whole, as long as it may be, or cannot go on
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from mell_jax.engine.frames import FinishReason
from mell_jax.engine.guides import InstanceGuides
from mell_jax.engine.slots import BoolArray, Int32Array, Request
from mell_jax.grammar import Guidance
from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.ids import Serial, Tokens
from mell_jax.scheduler.plan import StepPlan
from mell_jax.scheduler.rows import NO_SERIAL

_NO_TOKENS = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A guide has said this of a request.

    Attributes:
      tokens: that were added to it.
      end: why it is over; None when it goes on.
      message: of an end by an error, which is the grammar's.
    """

    serial: Serial
    tokens: Tokens
    end: FinishReason | None = None
    message: str = ""


@final
class GuidedRows:
    """The rows with a grammar of one instance; its engine's thread calls them.

    Args:
      guides: what follows the grammars.
      batcher: the books.
      requests: those of the instance, by serial; not changed here.
    """

    def __init__(
        self,
        guides: InstanceGuides,
        *,
        batcher: Batcher,
        requests: Mapping[Serial, Request],
    ) -> None:
        self._guides = guides
        self._batcher = batcher
        self._grants = batcher.grants
        self._requests = requests
        self._has_heard = False  # since `is_worth_waiting` was asked

    @property
    def has_news(self) -> bool:
        """Returns whether guides have said something that `hear` would take in."""
        return self._guides.has_news

    def follow(self, request: Request, tokens: Tokens) -> None:
        """Has a request with a grammar wait until it is known what may come next."""
        if request.params.grammar is None:
            return
        generated = tokens[len(request.submit.prompt) :].tolist()
        self._guides.open(request, generated=generated)
        self._grants.gate(request.serial, positions=len(tokens) - 1)

    def advance(self, serial: Serial, token: int) -> None:
        """Tells the guide of a request a token that was sampled."""
        self._has_heard = True
        self._guides.advance(serial, token)

    def forget(self, serial: Serial) -> None:
        """Drops the guide of a request, if it has one."""
        self._guides.forget(serial)

    def masks(self, plan: StepPlan, *, count: int) -> Int32Array:
        """Returns i32[count, ceil(V / 32)]: what the rows of a step may sample."""
        serials = np.where(plan.samples, plan.serials, NO_SERIAL)
        return self._guides.masks(serials, count=count)

    def hear(self) -> list[Heard]:
        """Takes in what guides have found since.

        What they say of a row that is held, as it moves, waits until it goes on.
        """
        news = self._guides.news(but=self._grants.is_held)
        self._has_heard |= bool(news)
        return [self._take_in(self._requests[each], said) for each, said in news]

    def is_alone(self, has_grammar: BoolArray) -> bool:
        """Returns whether all rows that run have grammars, so that nobody runs ahead.

        Launched as they come such rows would share no step: each would take two.

        Args:
          has_grammar: bool[slots].
        """
        if not self._guides.num_followed:
            return False  # as in most steps
        rows = self._batcher.rows
        return not (rows.active & ~has_grammar).any()

    def is_worth_waiting(self) -> bool:
        """Returns whether masks are on their way and others came since the last look.

        So a slow one keeps the others for a look without news, and no longer.
        """
        has_heard, self._has_heard = self._has_heard, False
        return has_heard and self._guides.is_filling(but=self._grants.is_held)

    def _take_in(self, request: Request, guidance: Guidance) -> Heard:
        serial = request.serial
        tokens = self._take_forced(request, guidance.forced)
        known = self._batcher.sequences.count_known(serial)
        generated = known - len(request.submit.prompt)
        end, message = None, ""
        if guidance.error:
            end, message = FinishReason.ERROR, f"grammar {guidance.error}"
        elif known == request.limit:
            end = FinishReason.LENGTH
        elif not guidance.is_complete:
            self._grants.gate(serial, positions=known)
        elif generated < request.params.min_tokens:
            end = FinishReason.ERROR
            message = (
                f"grammar is complete after {generated} tokens, and min_tokens "
                f"asks for {request.params.min_tokens}"
            )
        else:
            end = FinishReason.STOP
        return Heard(serial=serial, tokens=tokens, end=end, message=message)

    def _take_forced(self, request: Request, forced: tuple[int, ...]) -> Tokens:
        """Gives a sequence tokens that its grammar forces, as far as its limit."""
        if not forced:
            return _NO_TOKENS
        known = self._batcher.sequences.count_known(request.serial)
        tokens = np.array(forced[: request.limit - known], np.int32)
        self._batcher.append(request.serial, tokens)
        return tokens
