"""A guide follows one answer along its grammar; its state is (grammar, tokens).

    guide = maker.make(grammar, stop_ids=..., forces=True)
    guide.advance([token])  ->  Guidance(forced=(5, 6), mask=[...])

After a preemption or a move a new guide is given the tokens so far, and says the same.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

import numpy as np
from llguidance import LLMatcher

from mell_jax.grammar.explain import as_grammar_error
from mell_jax.grammar.grammar import Grammar
from mell_jax.grammar.guidance import Guidance, Mask
from mell_jax.grammar.limits import limits
from mell_jax.grammar.token_table import TokenTable

MAX_KEPT = 128
"""Grammars whose compiled form is kept; the least recently used go."""
MAX_KEPT_BYTES = 4 << 20
"""Of their texts, together; compiled they take several times as much."""


@final
class GuideMaker:
    """A maker compiles grammars for one tokenizer; one thread calls it.

    Args:
        table: of the model.
        least_forced: fewer forced tokens in a row are left to be sampled, one by one.
    """

    def __init__(self, table: TokenTable, *, least_forced: int = 1) -> None:
        self._least_forced = least_forced
        self._end_ids = table.end_ids
        self._vocab_size = table.vocab_size
        self._tokenizer = table.compiled()
        self._kept: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._kept_bytes = 0

    def make(
        self, grammar: Grammar, *, stop_ids: Sequence[int], forces: bool
    ) -> "Guide":
        """Returns a guide at the beginning of an answer.

        Args:
            grammar: what to follow; it is compiled unless that was done lately.
            stop_ids: tokens that end the answer, allowed where it may end.
            forces: whether forced tokens are wanted.

        Raises:
            GrammarError: the grammar cannot be compiled within the limits.
        """
        matcher = self._kept.get(grammar) or self._compile(grammar)
        self._kept.move_to_end(grammar)
        return Guide(
            matcher.deep_copy(),
            vocab_size=self._vocab_size,
            table_words=-(-self._tokenizer.vocab_size // 32),
            stop_ids=stop_ids,
            barred_ids=self._end_ids,
            least_forced=self._least_forced if forces else None,
        )

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Returns the tokens that end a text."""
        return self._end_ids

    def keeps(self, grammar: Grammar) -> bool:
        """Returns whether a guide of a grammar is made without compiling it."""
        return grammar in self._kept

    def _compile(self, grammar: Grammar) -> LLMatcher:
        """Compiles a grammar and keeps it, in place of others if there are many."""
        matcher = LLMatcher(
            self._tokenizer, grammar.source, limits=limits(), log_level=0
        )
        if matcher.is_error():
            raise as_grammar_error(matcher.get_error())
        self._kept[grammar] = matcher
        self._kept_bytes += grammar.size_bytes
        while len(self._kept) > MAX_KEPT or self._kept_bytes > MAX_KEPT_BYTES:
            gone, _ = self._kept.popitem(last=False)
            self._kept_bytes -= gone.size_bytes
        return matcher


@final
class Guide:
    """A guide of one answer; see `GuideMaker.make`. One thread at a time calls it."""

    def __init__(
        self,
        matcher: LLMatcher,
        *,
        vocab_size: int,
        table_words: int,
        stop_ids: Sequence[int],
        barred_ids: Sequence[int],
        least_forced: int | None,
    ) -> None:
        self._matcher = matcher
        self._words = words = -(-vocab_size // 32)
        self._table_words = table_words
        self._stops = _bits(stop_ids, words=words)
        padding = range(vocab_size, words * 32)
        self._free = ~_bits((*stop_ids, *barred_ids, *padding), words=words)
        self._stop_ids = frozenset(stop_ids)
        self._least_forced = least_forced

    def advance(self, tokens: Sequence[int]) -> Guidance:
        """Takes the next tokens of the answer, if any; returns how it may go on."""
        matcher = self._matcher
        forced: tuple[int, ...] = ()
        mask = None
        if matcher.consume_tokens(list(tokens)):
            forced = self._take_forced()
            mask = None if matcher.is_stopped() else self._mask()
        if matcher.is_error():
            return Guidance(error=str(as_grammar_error(matcher.get_error())))
        if mask is None or mask.any():
            return Guidance(forced=forced, mask=mask)
        if matcher.is_accepting():  # with no token that would end it
            return Guidance(forced=forced)
        return Guidance(error="lets no token through here")

    def _take_forced(self) -> tuple[int, ...]:
        """Goes along with the tokens that are the only ones to come next.

        An end is left to the sampler: other tokens may end the answer, too.
        """
        if self._least_forced is None:
            return ()
        forced = tuple(self._matcher.compute_ff_tokens())
        is_worth_it = len(forced) >= self._least_forced
        if not is_worth_it or self._stop_ids.intersection(forced):
            return ()
        self._matcher.consume_tokens(list(forced))
        return forced

    def _mask(self) -> Mask:
        whole = np.zeros(self._table_words, np.int32)
        self._matcher.unsafe_compute_mask_ptr(whole.ctypes.data, whole.nbytes)
        mask = whole[: self._words] & self._free
        if self._matcher.is_accepting():
            mask |= self._stops
        return mask


def _bits(ids: Sequence[int], *, words: int) -> Mask:
    flags = np.zeros(words * 32, np.bool_)
    flags[[token for token in ids if token < len(flags)]] = True
    return np.packbits(flags, bitorder="little").view(np.int32)
