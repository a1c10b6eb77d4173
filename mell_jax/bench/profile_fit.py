"""Fits a profile to steps that were seen: decodes, prefill, and both in one.

took_s = fixed + row * rows + page * pages + token * prefill_tokens
         + pair * prefill_pairs
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mell_jax.bench.step_watch import StepSample
from mell_jax.engine.fleet.step_fit import Fitted, Floats, fit_seconds
from mell_jax.scheduler.placement.model import StepTime

HICCUP = 4.0
"""A step that takes so many times as long as the fit expects says nothing of it."""
_ROUNDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Residuals:
    """Errors of a fit are shares of what steps of one kind took together and alone."""

    steps: int
    total: float  # of all seconds together: above 0, the fit expects too much
    p50: float  # of single steps, signs left out
    p90: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedSpeed:
    """A fitted speed is what a `Profile` of the simulator says about steps."""

    step_time: StepTime
    prefill_token_s: float
    prefill_pair_s: float  # for each token and 1,000 of its sequence up to it
    decodes: Residuals
    prefills: Residuals  # also of steps that decode besides
    hiccups: int  # steps that were left out


def fit_speed(samples: Sequence[StepSample]) -> FittedSpeed:
    """Fits the samples of one model on one kind of device.

    The fit gives means: noise makes a step longer, and requests feel it.

    Raises:
      ValueError: there are no steps with and without prefill.
    """
    has_prefill = np.array([s.prefill_tokens > 0 for s in samples], bool)
    if not (has_prefill.any() and not has_prefill.all()):
        raise ValueError(
            f"a fit needs steps with prefill and without, got {has_prefill.sum()} of "
            f"{len(samples)} with: send more requests"
        )
    causes = np.array([_causes(sample) for sample in samples], np.float64)
    took_s = np.array([sample.took_s for sample in samples])
    kept = np.ones(len(samples), bool)
    fitted = fit_seconds(causes, took_s=took_s)
    for _ in range(_ROUNDS):
        expected_s = np.maximum(causes @ fitted.coefficients, took_s.min())
        kept = took_s <= HICCUP * expected_s
        fitted = fit_seconds(
            causes[kept], took_s=took_s[kept], expected_s=expected_s[kept]
        )
    fixed_s, row_s, page_s, token_s, pair_s = fitted.coefficients.tolist()
    return FittedSpeed(
        step_time=StepTime(fixed_s=fixed_s, row_s=row_s, page_s=page_s),
        prefill_token_s=token_s,
        prefill_pair_s=pair_s,
        decodes=_residuals(fitted, took_s[kept], of=~has_prefill[kept]),
        prefills=_residuals(fitted, took_s[kept], of=has_prefill[kept]),
        hiccups=int((~kept).sum()),
    )


def _causes(sample: StepSample) -> tuple[float, ...]:
    return (
        1.0,
        sample.rows,
        sample.pages,
        sample.prefill_tokens,
        sample.prefill_pairs / 1000,
    )


def _residuals(fitted: Fitted, took_s: Floats, *, of: np.ndarray) -> Residuals:
    errors, took_s = fitted.errors[of], took_s[of]
    return Residuals(
        steps=len(errors),
        total=float((errors @ took_s) / took_s.sum()),
        p50=float(np.percentile(np.abs(errors), 50)),
        p90=float(np.percentile(np.abs(errors), 90)),
    )
