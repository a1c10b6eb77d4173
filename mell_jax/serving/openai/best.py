"""The best of several answers are shown: those likeliest per token."""

import math
from collections.abc import Sequence
from dataclasses import replace

from mell_jax.serving.openai.samples import Piece


def keep_best(pieces: Sequence[Piece], *, made: int, shown: int) -> list[Piece]:
    """Returns the choices to show, the best of each prompt first, numbered anew.

    Args:
      pieces: whole choices, `made` of each prompt, prompt after prompt.
      made: answers to each prompt.
      shown: the most of them that are kept.
    """
    if shown >= made:
        return list(pieces)
    kept = []
    for start in range(0, len(pieces), made):
        ranked = sorted(pieces[start : start + made], key=_mean_logprob, reverse=True)
        kept += ranked[:shown]
    return [replace(piece, index=index) for index, piece in enumerate(kept)]


def _mean_logprob(piece: Piece) -> float:
    return piece.logprob / piece.num_tokens if piece.num_tokens else -math.inf
