"""A request that leaves a sampling parameter out gets the one of its model."""

import dataclasses
from pathlib import Path

from absl import logging

from mell_jax.checkpoints import CheckpointError
from mell_jax.checkpoints.generation import (
    GENERATION_FILE,
    WAY_OUT,
    SamplingDefaults,
)
from mell_jax.engine.params import (
    NEUTRAL,
    InvalidRequestError,
    LogprobsMode,
    SamplingParams,
)
from mell_jax.events import Event, tell


def default_params(
    sampling: SamplingDefaults, *, logprobs_mode: LogprobsMode = "raw"
) -> SamplingParams:
    """Returns the parameters of a request that says nothing.

    Args:
      sampling: what the model proposes.
      logprobs_mode: what the operator chose.

    Raises:
      InvalidRequestError: no request may have such a value; names the parameter.
    """
    return dataclasses.replace(
        NEUTRAL, logprobs_mode=logprobs_mode, **sampling.proposed()
    )


def check_sampling(sampling: SamplingDefaults, *, directory: Path) -> None:
    """Refuses values that every request which leaves them out would fail by.

    Raises:
      CheckpointError: names file, key, rule, value and way out.
    """
    try:
        default_params(sampling)
    except InvalidRequestError as error:
        path = directory / GENERATION_FILE
        raise CheckpointError(f"{path}: {error}; {WAY_OUT}") from error


def tell_sampling(sampling: SamplingDefaults, *, model: str) -> None:
    """Writes down, at the start, what requests get that leave it out."""
    proposed = sampling.proposed()
    if proposed:
        shown = ", ".join(f"{name} {value:g}" for name, value in proposed.items())
        tell(
            Event.SAMPLING_DEFAULTS,
            text=f"{model}: requests that do not say otherwise get {shown} "
            f'({GENERATION_FILE}; [engine] generation_config = "none" takes it away)',
            model=model,
            **proposed,
        )
    if sampling.passed_over:
        logging.warning(
            "%s: %s says more about how tokens are chosen, which is not taken from "
            "there: %s",
            model,
            GENERATION_FILE,
            ", ".join(sampling.passed_over),
        )
