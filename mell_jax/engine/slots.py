"""The slot table keeps what steps need of running sequences, by slot.

A step touches these with a handful of NumPy calls, whatever the number of rows; Python
objects are made only when a sequence comes or goes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mell_jax.engine.frames import Handle, Submit
from mell_jax.engine.params import MAX_STOP_IDS, SamplingParams
from mell_jax.scheduler.ids import Serial, SlotId, Tokens
from mell_jax.scheduler.plan import StepPlan
from mell_jax.worker.device import RowSetup
from mell_jax.worker.sampling import (
    BITS_COLUMN,
    POSITION_COLUMN,
    ROW_COLUMNS,
    SLOT_COLUMN,
    SUPPRESS_STOP_BIT,
    SamplingRows,
    Want,
    greedy_rows,
    pack_rows,
    wants_of,
)

Int32Array = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]
NO_TOKEN = -2  # matches no id, nor the -1 of a row that sampled nothing
NOT_TOLD = -1  # is no turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request is a submission with everything "auto" resolved."""

    serial: Serial
    handle: Handle
    submit: Submit
    seed: int  # 64 bits, unsigned
    stop_ids: tuple[int, ...]  # tokens that end it
    barred_ids: tuple[int, ...]  # tokens it may not sample before min_tokens
    limit: int  # most tokens, prompt included

    @property
    def params(self) -> SamplingParams:
        return self.submit.params


class SlotTable:
    """The table holds sampling parameters and stop rules of the running batch."""

    def __init__(self, num_slots: int) -> None:
        self.handles = np.zeros(num_slots, np.int64)
        self.limits = np.zeros(num_slots, np.int32)
        self.stop_ids = np.full((num_slots, MAX_STOP_IDS), NO_TOKEN, np.int32)
        self.min_tokens = np.zeros(num_slots, np.int32)
        self.wants_prompt = np.zeros(num_slots, np.bool_)
        self.prompt_temperatures = np.ones(num_slots, np.float32)
        self.has_grammar = np.zeros(num_slots, np.bool_)
        self.told = np.full(num_slots, NOT_TOLD, np.int64)  # which turn; see `Instance`
        self._wants = np.zeros(num_slots, np.int32)
        self._sampling = np.zeros((ROW_COLUMNS, num_slots), np.int32)
        self._padding = pack_rows(greedy_rows(1, slot=num_slots))
        self._scratch_slot = num_slots

    def occupy(self, slot: SlotId, request: Request) -> None:
        params = request.params
        self.handles[slot] = request.handle
        self.limits[slot] = request.limit
        self.stop_ids[slot] = NO_TOKEN
        self.stop_ids[slot, : len(request.stop_ids)] = request.stop_ids
        self.min_tokens[slot] = params.min_tokens
        self.wants_prompt[slot] = params.prompt_logprobs is not None
        self.prompt_temperatures[slot] = _prompt_temperature(params)
        self.told[slot] = NOT_TOLD
        row = _sampling_row(request)
        self._sampling[:, slot] = pack_rows(row)[:, 0]
        has_logprobs = params.logprobs is not None
        is_processed = params.logprobs_mode == "processed"
        self.has_grammar[slot] = params.grammar is not None
        self._wants[slot] = (
            wants_of(row)
            | (Want.LOGPROBS if has_logprobs else 0)
            | (Want.PROCESSED if has_logprobs and is_processed else 0)
            | (Want.MASK if params.grammar is not None else 0)
        )

    def rows(
        self, plan: StepPlan, *, count: int, generated: Int32Array
    ) -> tuple[Int32Array, Want]:
        """Returns what the sampler is told of a step, and what rows want of it.

        Args:
          plan: of the step.
          count: B, with padding.
          generated: [b] tokens so far per row.
        """
        slots, rows = plan.slots, len(plan.slots)
        is_barred = generated < self.min_tokens[slots]
        sampling = np.empty((ROW_COLUMNS, count), np.int32)
        sampling[:] = self._padding
        sampling[:, :rows] = self._sampling[:, slots]
        sampling[SLOT_COLUMN, :rows] = np.where(plan.samples, slots, self._scratch_slot)
        sampling[POSITION_COLUMN, :rows] = plan.kv_lens
        sampling[BITS_COLUMN, :rows] |= np.where(is_barred, SUPPRESS_STOP_BIT, 0)
        wants = np.bitwise_or.reduce(self._wants[slots[plan.samples]], initial=0)
        if (is_barred & plan.samples).any():
            wants |= int(Want.BIAS)
        return sampling, Want(int(wants))


def row_setup(
    request: Request, *, slot: SlotId, tokens: Tokens, num_prompt: int
) -> RowSetup:
    """Returns what the device has to know about a request that gets `slot`."""
    params = request.params
    allowed = params.allowed_token_ids
    bias = dict(params.logit_bias)
    if allowed is not None:
        bias = {token: bias.get(token, 0.0) for token in allowed}
    return RowSetup(
        slot=slot,
        bias=bias,
        allow_only=allowed is not None,
        stop_ids=request.barred_ids,
        history=tokens if params.has_penalty else None,
        num_prompt=num_prompt,
    )


def _prompt_temperature(params: SamplingParams) -> float:
    """Returns what divides the logits of a prompt's tokens that are scored."""
    is_raw = params.logprobs_mode == "raw" or params.is_greedy
    return 1.0 if is_raw else params.temperature


def _sampling_row(request: Request) -> SamplingRows:
    """Returns one row as arrays of length 1; what changes by step comes later."""
    params = request.params
    has_bias = bool(params.logit_bias) or params.allowed_token_ids is not None

    def one(value: float, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        return np.array([value], dtype)

    return SamplingRows(
        slot=one(0, np.int32),
        temperature=one(params.temperature, np.float32),
        top_k=one(params.top_k, np.int32),
        top_p=one(params.top_p, np.float32),
        min_p=one(params.min_p, np.float32),
        presence=one(params.presence_penalty, np.float32),
        frequency=one(params.frequency_penalty, np.float32),
        repetition=one(params.repetition_penalty, np.float32),
        seed_hi=one(request.seed >> 32, np.uint32),
        seed_lo=one(request.seed & 0xFFFFFFFF, np.uint32),
        position=one(0, np.int32),
        suppress_stop=one(False, np.bool_),
        has_bias=one(has_bias, np.bool_),
        is_processed=one(params.logprobs_mode == "processed", np.bool_),
    )
