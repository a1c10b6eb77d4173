"""A submission is refused here with the rule that it breaks, or filled in."""

import numpy as np

from mell_jax.engine.frames import EngineInfo, Finished, FinishReason, Submit
from mell_jax.engine.params import InvalidRequestError
from mell_jax.engine.slots import Request
from mell_jax.scheduler.ids import Serial

UINT64 = 2**64


def refusal(submit: Submit, error: InvalidRequestError) -> Finished:
    """Returns what is said to a submission that breaks a rule."""
    return Finished(
        handle=submit.handle,
        reason=FinishReason.ERROR,
        message=str(error),
        field=error.field,
    )


def resolve(
    submit: Submit, *, serial: Serial, info: EngineInfo, rng: np.random.Generator
) -> Request:
    """Returns a checked submission with what it leaves open filled in.

    Args:
      rng: draws a seed where neither the submission nor its parameters have one.
    """
    params = submit.params
    seed = submit.seed if submit.seed is not None else params.seed
    if seed is None:
        seed = int(rng.integers(0, UINT64, dtype=np.uint64))
    eos = () if params.ignore_eos else info.eos_token_ids
    barred = {*params.stop_token_ids, *info.eos_token_ids}
    room = info.max_model_len - len(submit.prompt)
    max_tokens = room if params.max_tokens is None else params.max_tokens
    return Request(
        serial=serial,
        handle=submit.handle,
        submit=submit,
        seed=seed % UINT64,
        stop_ids=tuple(sorted({*params.stop_token_ids, *eos})),
        barred_ids=tuple(sorted(barred)),
        limit=len(submit.prompt) + max_tokens,
    )
