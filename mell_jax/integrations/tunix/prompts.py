"""Turns what Tunix asks for into ids and sampling parameters.

    ['hello', 'is it']  ->  [[1, 5], [1, 12, 9]]  ->  [[0, 1, 5],
                                                       [1, 12, 9]]

Prompts go to the engine as they are; only the trainer gets them padded on the left.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mell_jax.engine.params import SamplingParams

Ids = npt.NDArray[np.int32]


def encode(tokenizer: Any, text: str) -> list[int]:
    """Returns the ids of a prompt, with one begin of text where the tokenizer has one.

    Args:
      tokenizer: Tunix' `TokenizerAdapter`.
    """
    ids = [int(token) for token in tokenizer.encode(text)]
    bos = tokenizer.bos_id()
    if not bos or bos < 0:
        return ids
    while ids[:1] == [bos]:
        del ids[0]
    return [int(bos), *ids]


def pad_left(rows: Sequence[Sequence[int]], *, pad_id: int, length: int) -> Ids:
    """Returns rows [B, length]; longer for rows that are: the next power of two."""
    longest = max((len(row) for row in rows), default=0)
    if longest > length:
        length = 1 << (longest - 1).bit_length()
    padded = np.full((len(rows), length), pad_id, np.int32)
    for place, row in zip(padded, rows, strict=True):
        if row:
            place[-len(row) :] = row
    return padded


def without_padding(row: Ids, *, pad_id: int, is_left: bool) -> list[int]:
    """Returns the tokens of a row that was padded on one side."""
    tokens = np.flatnonzero(row != pad_id)
    if not len(tokens):
        return []
    kept = row[tokens[0] :] if is_left else row[: tokens[-1] + 1]
    return [int(token) for token in kept]


def sampling_params(config: Any, **changes: Any) -> SamplingParams:
    """Returns what a `RolloutConfig` asks for.

    Args:
      config: a `RolloutConfig`; what is None there changes nothing.
      changes: fields of `SamplingParams` that count more.

    Raises:
      InvalidRequestError: a value is out of range.
      TypeError: a change is no field.
    """
    params = SamplingParams(
        temperature=config.temperature,
        top_p=1.0 if config.top_p is None else config.top_p,
        top_k=0 if config.top_k is None else config.top_k,
        max_tokens=config.max_tokens_to_generate,
    )
    if config.eos_tokens is not None:
        stops = tuple(config.eos_tokens)
        params = replace(params, stop_token_ids=stops, ignore_eos=True)
    if config.return_logprobs:
        params = replace(params, logprobs=0, logprobs_mode="processed")
    return replace(params, **changes) if changes else params


def seeded(
    params: SamplingParams, *, seed: Any, call: int, count: int
) -> list[SamplingParams]:
    """Returns the parameters of each prompt of a call, with seeds of their own.

    Groups of equal prompts have to differ, also where each comes in a call of its own.

    Args:
      seed: a number or a key of JAX; None leaves seeds to the engine.
      call: its number, from 0.
    """
    if seed is None:
        return [params] * count
    if isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key):
        seed = jax.random.key_data(seed)
    base = np.asarray(seed).tobytes()
    return [replace(params, seed=_mixed(base, call, number)) for number in range(count)]


def _mixed(base: bytes, call: int, number: int) -> int:
    text = b"%s %d %d" % (base, call, number)
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1
