"""Sequences and steps are values: the batcher is told one and answers the other."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from mell_jax.scheduler.fair_queue import NOBODY, Tenant
from mell_jax.scheduler.ids import Serial, SlotId, Tokens

Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """A sequence says what the batcher needs to know; preemption replaces it."""

    serial: Serial
    tokens: Tokens  # prompt, and after a preemption what was generated
    prompt: int  # tokens of the original prompt
    limit: int  # most tokens in total
    salt: bytes = b""  # who may share its pages
    is_mixed: bool = False  # weights of several generations have: nobody shares them
    reads_cache: bool = True  # False when every prompt token has to be computed
    pending: int = 0  # sampled before a preemption, not yet known
    tenant: Tenant = NOBODY  # rows and prefill are shared out among tenants


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """This sequence got a slot in the step."""

    serial: Serial
    slot: SlotId
    tokens: Tokens
    prompt: int
    cached: int  # tokens found in the prefix cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Places of pages of a sequence: their groups [n], and which of its pages [n]."""

    groups: Int32Array
    along: Int32Array

    @classmethod
    def in_order(cls, count: int) -> Self:
        """Returns the first pages of the first group."""
        return cls(
            groups=np.zeros(count, np.int32), along=np.arange(count, dtype=np.int32)
        )

    def __len__(self) -> int:
        return len(self.groups)


NOWHERE = Places.in_order(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """In a step row i computes `q_lens[i]` tokens of the sequence in `slots[i]`."""

    slots: Int32Array  # [b]
    serials: npt.NDArray[np.int64]  # [b]
    starts: Int32Array  # [b] position of the row's first token
    q_lens: Int32Array  # [b]
    kv_lens: Int32Array  # [b] positions computed after it
    samples: npt.NDArray[np.bool_]  # [b] the row's last token is its newest: sample
    token_ids: Int32Array  # [t] rows one after another; UNKNOWN_TOKEN: on the device
    positions: Int32Array  # [t]
    owners: Int32Array  # [t] row of each token, counted from 0
    page_table: Int32Array  # [G, b, M] as of this step; a copy
    admitted: tuple[Admitted, ...] = ()
    preempted: tuple[Serial, ...] = ()

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def is_decode(self) -> bool:
        """Returns whether every row computes one token and samples the next."""
        return len(self.token_ids) == len(self.slots) and bool(self.samples.all())


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """Limits bound the sizes of a step."""

    max_rows: int
    token_budget: int  # most tokens computed in one step
    max_tokens: int  # longest sequence
    mixed_tokens: tuple[int, ...] = ()  # that steps with prefill are padded to, rising
    lands_for_owed: bool = False  # see `Batcher.lands_first`

    def __post_init__(self) -> None:
        if not (1 <= self.max_rows <= self.token_budget):
            raise ValueError(
                f"token_budget ({self.token_budget}) must be at least max_rows "
                f"({self.max_rows}), and that at least 1, so that all can decode"
            )
