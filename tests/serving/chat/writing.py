"""Writes answers that a grammar lets through: first what is wished, then by chance."""

import random
from collections.abc import Sequence

import numpy as np

from mell_jax.engine.params import SamplingParams
from mell_jax.grammar import Grammar, GuideMaker
from mell_jax.text.tokenizer import Tokenizer

END = 0
MAX_TOKENS = 3000


class Writer:
    """Follows grammars over the tokens of a tokenizer, whose token 0 ends texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        table = tokenizer.token_table(end_ids=(END,), vocab_size=tokenizer.vocab_size)
        self._maker = GuideMaker(table)
        self._endings = [
            tokenizer.encode(text, add_special_tokens=False)
            for text in ("</parameter>", "</arg_value>", "</think>")
        ]
        self._closers = tokenizer.encode('"}])\n', add_special_tokens=False)

    def write(self, params: SamplingParams, *, wish: Sequence[int]) -> list[int]:
        """The tokens of an answer; its end is the last one.

        Args:
            params: have a grammar and a seed.
            wish: tokens, of which each comes next if it may; with the first that may
                not, chance begins.
        """
        grammar = params.grammar
        assert isinstance(grammar, Grammar)
        chance = random.Random(params.seed)
        guide = self._maker.make(grammar, stop_ids=[END], forces=False)
        wished, ids = list(wish), list[int]()
        guidance = guide.advance([])
        while len(ids) < MAX_TOKENS:
            assert not guidance.error, guidance.error
            if guidance.mask is None:
                return [*ids, END]
            mask = np.unpackbits(guidance.mask.view(np.uint8), bitorder="little")
            allowed = np.flatnonzero(mask).tolist()
            if wished and wished[0] in allowed:
                token = wished.pop(0)
            else:
                wished = []
                if chance.random() < 0.3:
                    wished = list(chance.choice(self._endings))
                likely = [t for t in (END, *self._closers) if t in allowed]
                is_likely = likely and chance.random() < 0.5
                token = chance.choice(likely if is_likely else allowed)
            ids.append(token)
            if token == END:
                return ids
            guidance = guide.advance([token])
        raise AssertionError(f"an answer has no end: {ids}")
