"""Numbers of any library are taken, and kept as Python's own."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from mell_jax.engine.params import InvalidRequestError, SamplingParams

GIVEN: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.25,
    "top_k": 3,
    "min_p": 0.125,
    "presence_penalty": -1.0,
    "frequency_penalty": 1.5,
    "repetition_penalty": 1.25,
    "logit_bias": {7: -2.5},
    "allowed_token_ids": (7, 8),
    "seed": 11,
    "logprobs": 2,
    "prompt_logprobs": 1,
    "n": 2,
    "max_tokens": 9,
    "min_tokens": 1,
    "stop": ("end",),
    "stop_token_ids": (4, 5),
}


def plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(plain(one) for one in value)
    if isinstance(value, dict):
        return all(plain(one) for pair in value.items() for one in pair)
    return type(value) in (int, float, bool, str, type(None))


@pytest.mark.parametrize("library", [np, jnp], ids=["numpy", "jax"])
def test_scalars_and_arrays_are_as_good_as_numbers(library: Any) -> None:
    changed = {
        name: library.asarray(value)
        if isinstance(value, int | float | tuple) and name != "stop"
        else value
        for name, value in GIVEN.items()
    }
    changed["logit_bias"] = {np.int64(7): np.float32(-2.5)}
    changed["stop"] = ["end"]
    params = SamplingParams(**changed)
    assert params == SamplingParams(**GIVEN)
    assert all(plain(value) for value in dataclasses.asdict(params).values())


def test_minus_one_keeps_all_tokens_as_elsewhere() -> None:
    assert SamplingParams(top_k=-1) == SamplingParams(top_k=0)


def test_ids_may_come_from_a_generator() -> None:
    params = SamplingParams(stop_token_ids=(i for i in (1, 2)))  # type: ignore[arg-type]
    assert params.stop_token_ids == (1, 2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", np.float32("nan")),
        ("temperature", np.array([0.5, 0.5])),
        ("temperature", "0.5"),
        ("temperature", True),
        ("temperature", 10**400),
        ("max_tokens", np.float64(2.0)),
        ("max_tokens", np.bool_(True)),
        ("n", np.array([1, 2])),
        ("stop_token_ids", (1.5,)),
        ("allowed_token_ids", np.array([[1]])),
        ("logit_bias", {1.5: 1.0}),
        ("logit_bias", {1: float("nan")}),
    ],
)
def test_what_is_no_number_of_the_kind_is_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidRequestError, match=field):
        SamplingParams(**{field: value})  # type: ignore[arg-type]
