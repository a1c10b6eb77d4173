"""A step tells the sampler here what each of its B rows wants.

The host fills `SamplingRows` with NumPy, packs it into a few int32 columns of the
step's metadata (floats keep their bits), and the compiled step unpacks it. What no
row wants is skipped at run time: `flag_word` says, on the host, what some row wants.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

GREEDY_BELOW = 1e-5  # temperatures below this mean greedy

ROW_COLUMNS = 11


class SamplingRows(NamedTuple):
    """The rows hold parameters of B rows; NumPy on the host, JAX inside the step.

    The order of the fields is the order of the packed columns; the last three
    share one column of bits.
    """

    temperature: Any  # f32[B], below GREEDY_BELOW: greedy
    top_k: Any  # i32[B], 0 = off
    top_p: Any  # f32[B], 1 = off
    min_p: Any  # f32[B], 0 = off
    presence: Any  # f32[B], 0 = off
    frequency: Any  # f32[B], 0 = off
    repetition: Any  # f32[B], 1 = off
    seed_hi: Any  # u32[B]
    seed_lo: Any  # u32[B]
    position: Any  # i32[B], of the token being sampled
    suppress_stop: Any  # bool[B]: min_tokens is not reached
    has_bias: Any  # bool[B]: the slot has a bias or allowed tokens
    wants_logprobs: Any  # bool[B]


_FLOATS = ("temperature", "top_p", "min_p", "presence", "frequency", "repetition")
_WORDS = ("seed_hi", "seed_lo")
_INTS = ("top_k", "position")
_BITS = ("suppress_stop", "has_bias", "wants_logprobs")
_COLUMNS = SamplingRows._fields[: -len(_BITS)]
POSITION_COLUMN = _COLUMNS.index("position")
BITS_COLUMN = len(_COLUMNS)
SUPPRESS_STOP_BIT = 1 << _BITS.index("suppress_stop")


def greedy_rows(count: int) -> SamplingRows:
    """Returns `count` rows with every option off: what padding rows carry."""
    zeros = np.zeros(count, np.float32)
    ones = np.ones(count, np.float32)
    return SamplingRows(
        temperature=zeros.copy(),
        top_k=np.zeros(count, np.int32),
        top_p=ones.copy(),
        min_p=zeros.copy(),
        presence=zeros.copy(),
        frequency=zeros.copy(),
        repetition=ones.copy(),
        seed_hi=np.zeros(count, np.uint32),
        seed_lo=np.zeros(count, np.uint32),
        position=np.zeros(count, np.int32),
        suppress_stop=np.zeros(count, np.bool_),
        has_bias=np.zeros(count, np.bool_),
        wants_logprobs=np.zeros(count, np.bool_),
    )


def pack_rows(rows: SamplingRows) -> np.ndarray:
    """Returns NumPy rows as i32[ROW_COLUMNS, B]; one column of the step's metadata
    each.
    """
    columns = [_bits(name, value=getattr(rows, name)) for name in _COLUMNS]
    bits = np.zeros_like(columns[0])
    for shift, name in enumerate(_BITS):
        bits |= np.asarray(getattr(rows, name), np.int32) << shift
    return np.stack([*columns, bits])


def unpack_rows(packed: Array) -> SamplingRows:
    """Returns i32[ROW_COLUMNS, B] as rows inside the compiled step."""
    fields: dict[str, Array] = {}
    for column, name in enumerate(_COLUMNS):
        dtype = _dtype(name)
        fields[name] = jax.lax.bitcast_convert_type(packed[column], dtype)
    for shift, name in enumerate(_BITS):
        fields[name] = (packed[len(_COLUMNS)] >> shift) & 1 == 1
    return SamplingRows(**fields)


class SampleFlags(NamedTuple):
    """A flag says that at least one row wants something; else it is skipped."""

    any_random: Any  # bool[]
    any_top_k: Any  # bool[], of a random row
    any_top_p: Any  # bool[], of a random row
    any_penalty: Any  # bool[]
    any_bias: Any  # bool[], bias, allowed tokens or suppressed stop tokens
    any_logprobs: Any  # bool[]


def flag_word(rows: SamplingRows) -> np.int32:
    """Returns the bits of `SampleFlags` of NumPy rows, the first field lowest."""
    is_random = rows.temperature >= GREEDY_BELOW
    flags = SampleFlags(
        any_random=is_random.any(),
        any_top_k=(is_random & (rows.top_k > 0)).any(),
        any_top_p=(is_random & (rows.top_p < 1.0)).any(),
        any_penalty=has_penalty(rows).any(),
        any_bias=(rows.has_bias | rows.suppress_stop).any(),
        any_logprobs=rows.wants_logprobs.any(),
    )
    return np.int32(sum(int(flag) << bit for bit, flag in enumerate(flags)))


def unpack_flags(word: Array) -> SampleFlags:
    """Returns `flag_word`'s i32[] as flags inside the compiled step."""
    return SampleFlags(*(((word >> bit) & 1) == 1 for bit in range(_NUM_FLAGS)))


_NUM_FLAGS = len(SampleFlags._fields)


ANY_BIAS_FLAG = 1 << SampleFlags._fields.index("any_bias")


def has_penalty(rows: SamplingRows) -> Any:
    """Returns bool[B]: whether a row's counts of generated tokens matter."""
    return (rows.presence != 0.0) | (rows.frequency != 0.0) | (rows.repetition != 1.0)


def _dtype(name: str) -> Any:
    if name in _FLOATS:
        return jnp.float32
    return jnp.uint32 if name in _WORDS else jnp.int32


def _bits(name: str, *, value: np.ndarray) -> np.ndarray:
    dtype = np.dtype(_dtype(name))
    return np.ascontiguousarray(value, dtype).view(np.int32)
