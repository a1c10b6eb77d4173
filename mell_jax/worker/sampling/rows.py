"""A step tells the sampler here what each of its B rows wants.

The host fills `SamplingRows` with NumPy, packs it into a few int32 columns (floats keep
their bits), and the compiled programs unpack it. `wants_of` says, on the host, what
some row wants: what none wants is not dispatched.
"""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

GREEDY_BELOW = 1e-5  # temperatures below this mean greedy

ROW_COLUMNS = 12


class SamplingRows(NamedTuple):
    """The rows hold parameters of B rows; NumPy on the host, JAX inside the step.

    The order of the fields is the order of the packed columns; the last three share one
    column of bits.
    """

    slot: Any  # i32[B] to sample for; the scratch slot where nothing is sampled
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
    is_processed: Any  # bool[B]: log probabilities are of what is drawn from


_FLOATS = ("temperature", "top_p", "min_p", "presence", "frequency", "repetition")
_WORDS = ("seed_hi", "seed_lo")
_INTS = ("slot", "top_k", "position")
_BITS = ("suppress_stop", "has_bias", "is_processed")
_COLUMNS = SamplingRows._fields[: -len(_BITS)]
SLOT_COLUMN = _COLUMNS.index("slot")
POSITION_COLUMN = _COLUMNS.index("position")
BITS_COLUMN = len(_COLUMNS)
SUPPRESS_STOP_BIT = 1 << _BITS.index("suppress_stop")


def greedy_rows(count: int, *, slot: int) -> SamplingRows:
    """Returns `count` rows with every option off: what padding rows carry."""
    zeros = np.zeros(count, np.float32)
    ones = np.ones(count, np.float32)
    return SamplingRows(
        slot=np.full(count, slot, np.int32),
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
        is_processed=np.zeros(count, np.bool_),
    )


def pack_rows(rows: SamplingRows) -> np.ndarray:
    """Returns NumPy rows as i32[ROW_COLUMNS, B]."""
    columns = [_bits(name, value=getattr(rows, name)) for name in _COLUMNS]
    bits = np.zeros_like(columns[0])
    for shift, name in enumerate(_BITS):
        bits |= np.asarray(getattr(rows, name), np.int32) << shift
    return np.stack([*columns, bits])


def unpack_rows(packed: Array) -> SamplingRows:
    """Returns i32[ROW_COLUMNS, B] as rows inside a compiled program."""
    fields: dict[str, Array] = {}
    for column, name in enumerate(_COLUMNS):
        dtype = _dtype(name)
        fields[name] = jax.lax.bitcast_convert_type(packed[column], dtype)
    for shift, name in enumerate(_BITS):
        fields[name] = (packed[len(_COLUMNS)] >> shift) & 1 == 1
    return SamplingRows(**fields)


class Want(enum.IntFlag):
    """A want is of at least one row of a step; the host knows, and picks programs."""

    RANDOM = enum.auto()
    FILTER = enum.auto()  # top-k or top-p, of a random row
    PENALTY = enum.auto()
    BIAS = enum.auto()  # bias, allowed tokens or suppressed stop tokens
    MASK = enum.auto()  # only tokens that a mask lets through
    LOGPROBS = enum.auto()
    PROCESSED = enum.auto()  # log probabilities of what is drawn from


NOTHING = Want(0)
"""Every row is greedy, and that is all."""
EVERYTHING = ~NOTHING


def wants_of(rows: SamplingRows) -> Want:
    """Returns what NumPy rows want; log probabilities and masks are not in rows."""
    is_random = rows.temperature >= GREEDY_BELOW
    is_filtered = is_random & ((rows.top_k > 0) | (rows.top_p < 1.0))
    wanted = {
        Want.RANDOM: is_random,
        Want.FILTER: is_filtered,
        Want.PENALTY: has_penalty(rows),
        Want.BIAS: rows.has_bias | rows.suppress_stop,
    }
    return Want(sum(want for want, by in wanted.items() if by.any()))


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
