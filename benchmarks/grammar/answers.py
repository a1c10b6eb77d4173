"""Answers to schemas, as a model might write them: words in texts, and an end."""

import itertools
import random
from collections.abc import Iterator

import numpy as np

from mell_jax.grammar import Grammar, GuideMaker, TokenTable
from mell_jax.grammar.guidance import Mask

END = 256
MOST_BYTES = 1500
CLOSING_CHANCE = 0.02
"""That a text, a list or an object ends where it may."""
_CLOSING = b'"]}'
_WORDS = (
    "the old river ran past a small house where nobody had lived for years and the "
    "garden was full of apples that fell and lay in the long wet grass until winter "
)


def byte_maker() -> GuideMaker:
    """Returns a maker whose tokens are the bytes."""
    table = TokenTable(
        token_bytes=[*(bytes([byte]) for byte in range(256)), b""],
        special_ids=frozenset({END}),
        end_ids=(END,),
        vocab_size=257,
        encode=lambda text: list(text.encode()),
    )
    return GuideMaker(table)


def answer_to(grammar: Grammar, *, maker: GuideMaker, rng: random.Random) -> str:
    """Returns a text of a grammar, the beginning of one if it is long.

    Args:
      grammar: of JSON.
      maker: of bytes.
      rng: chooses.
    """
    guide = maker.make(grammar, stop_ids=[END], forces=False)
    words = itertools.cycle(_WORDS.encode())
    following = next(words)
    written = bytearray()
    guidance = guide.advance([])
    while guidance.mask is not None and len(written) < MOST_BYTES:
        allowed = _allowed(guidance.mask)
        if END in allowed:
            break
        byte = following if following in allowed else rng.choice(sorted(allowed))
        is_word = byte == following
        following = next(words) if is_word else following
        chance = CLOSING_CHANCE if is_word else CLOSING_CHANCE * 20
        if rng.random() < chance:
            byte = next(_closing(allowed), byte)
        written.append(byte)
        guidance = guide.advance([byte])
    return written.decode(errors="ignore")


def _closing(allowed: set[int]) -> Iterator[int]:
    return (byte for byte in _CLOSING if byte in allowed)


def _allowed(mask: Mask) -> set[int]:
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())
