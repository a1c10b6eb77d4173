"""Frames cross the seam between front ends and engine: token ids, never text.

A front end sends `Submit` and `Abort`; the engine answers every step with one
`StepFrame`, whose arrays hold a row for each request that got a token. Frames are plain
frozen values, so that they can cross threads and processes.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NewType

import numpy as np
import numpy.typing as npt

from mell_jax.engine.fleet_view import FleetView
from mell_jax.engine.histogram import Histogram
from mell_jax.engine.params import NEUTRAL, SamplingParams

Handle = NewType("Handle", int)
"""Names one generated sequence; chosen by the front end, unique among the live ones."""

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]


class FinishReason(enum.Enum):
    STOP = "stop"  # an end-of-sequence or stop token
    LENGTH = "length"  # max_tokens or the context is used up
    ABORT = "abort"  # the front end asked for it
    ERROR = "error"  # this request failed alone; `Finished.message` says why


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """A submission asks for one sequence; a request with n samples is n of these."""

    handle: Handle
    prompt: Int32Array  # [T] token ids
    params: SamplingParams  # n, stop and text options are the front end's business
    model: str = ""  # its name; empty for the first one served
    seed: int | None = None
    """Replaces `params.seed`; the samples of one request differ in it alone."""
    salt: bytes = b""
    """Requests share cached prompt pages only with requests of the same salt."""
    tenant: str = ""
    """Tenants that wait share rows, pages and prefill; empty is one of them."""
    weight: float = 1.0
    """Of the tenant's part, as of its latest submission."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """Stops these sequences and frees their pages; unknown handles are ignored."""

    handles: tuple[Handle, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprobs:
    """Log probabilities are of a kind for each request; see `logprobs_mode`."""

    chosen: Float32Array  # [n] of the token itself
    top_ids: Int32Array  # [n, MAX_TOP_LOGPROBS], most likely first
    top: Float32Array  # [n, MAX_TOP_LOGPROBS]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptDone:
    """This is sent with a sequence's first token."""

    handle: Handle
    cached_tokens: int  # prompt tokens that came from the prefix cache
    logprobs: Logprobs | None
    """Rows for prompt tokens 1 to T-1, none when T is 1; None when not asked for."""
    prefill_s: float | None = None
    """From its first step to its first token; None when it began on another device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """This ends a sequence; its last token, if any, is in the same frame."""

    handle: Handle
    reason: FinishReason
    stop_token: int | None = None  # the token that ended it, for FinishReason.STOP
    message: str = ""  # for FinishReason.ERROR
    field: str = ""  # the parameter at fault, when the request itself is invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    """Tokens of these sequences are of weights of this version, from this frame on.

    It is told with a sequence's first token, and again when that changes. A token is of
    the weights whose logits it was sampled from; one that a grammar forced, of those
    that were there.
    """

    version: str
    handles: tuple[Handle, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFrame:
    """A frame says all that a step brought. Row i: `handles[i]` got `tokens[i]`.

    A sequence has several rows, in order, where tokens were forced by its grammar.
    """

    handles: npt.NDArray[np.int64]  # [n]
    tokens: Int32Array  # [n]
    logprobs: Logprobs | None = None  # present when any row asked for them
    prompts: tuple[PromptDone, ...] = ()
    finished: tuple[Finished, ...] = ()
    versions: tuple[NewVersion, ...] = ()


def frame_of_tokens(
    said: Sequence[tuple[Handle, Int32Array]] = (),
    *,
    finished: tuple[Finished, ...],
    version: str = "",
) -> StepFrame:
    """Returns a frame of tokens that no step has sampled, or of none.

    Args:
      said: tokens of each sequence that got some.
      finished: the ends.
      version: of the weights that were there.
    """
    handles = tuple(handle for handle, _ in said)
    return StepFrame(
        versions=(NewVersion(version=version, handles=handles),) if handles else (),
        handles=np.repeat(
            np.array([handle for handle, _ in said], np.int64),
            [len(tokens) for _, tokens in said],
        ),
        tokens=np.concatenate([np.zeros(0, np.int32), *(part for _, part in said)]),
        finished=finished,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """This tells a front end what it needs to know of the engine behind it."""

    model_name: str
    model_type: str  # "llama", "qwen3", ... as in config.json
    architecture: str  # "LlamaForCausalLM", ...
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    max_model_len: int  # tokens, prompt and output together
    max_rows: int  # sequences that run at once
    num_pages: int
    page_tokens: int
    default_params: SamplingParams = NEUTRAL
    """Of these a request takes every sampling parameter that it leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """The load says how busy the engine is, as of its latest step."""

    running: int
    waiting: int
    waiting_tokens: int  # prompt tokens of waiting requests
    used_pages: int
    cached_pages: int
    free_pages: int
    generated_tokens: int  # since start
    prefix_hit_tokens: int  # since start
    prefix_query_tokens: int  # since start
    preemptions: int  # since start
    steps: int  # since start
    compilations: int  # since start; constant after readiness
    fleet: FleetView | None = None  # None where nobody looked
    phases: Mapping[str, Histogram] | None = None  # seconds of steps, since start
    invariant_violations: int = 0  # since start; any is a bug


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStopped:
    """This is the last frame of all: every sequence without a `Finished` is lost."""

    message: str  # empty after an orderly stop
