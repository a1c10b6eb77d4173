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


def choose_seed(submit: Submit, *, rng: np.random.Generator) -> int:
    """Returns the seed of a submission, drawn where it has none."""
    seed = submit.seed if submit.seed is not None else submit.params.seed
    if seed is None:
        seed = int(rng.integers(0, UINT64, dtype=np.uint64))
    return seed % UINT64


def resolve(submit: Submit, *, serial: Serial, info: EngineInfo, seed: int) -> Request:
    """Returns a checked submission with what it leaves open filled in.

    Args:
      seed: as chosen for it, 64 bits.
    """
    params = submit.params
    eos = () if params.ignore_eos else info.eos_token_ids
    barred = {*params.stop_token_ids, *info.eos_token_ids}
    room = info.max_model_len - len(submit.prompt)
    max_tokens = room if params.max_tokens is None else params.max_tokens
    return Request(
        serial=serial,
        handle=submit.handle,
        submit=submit,
        seed=seed,
        stop_ids=tuple(sorted({*params.stop_token_ids, *eos})),
        barred_ids=tuple(sorted(barred)),
        limit=len(submit.prompt) + max_tokens,
    )
