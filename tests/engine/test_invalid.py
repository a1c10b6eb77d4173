"""A request that breaks a rule is told which one, and harms nobody."""

import dataclasses

import numpy as np
import pytest

from mell_jax.engine.frames import FinishReason, Handle, Submit
from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.engine.validate import check_submit
from tests.toy import GREEDY, expected, run, submit, toy_engine

NAN, INF = float("nan"), float("inf")

BAD_PARAMS = [
    ("temperature", {"temperature": -0.1}),
    ("temperature", {"temperature": 100.5}),
    ("temperature", {"temperature": NAN}),
    ("temperature", {"temperature": INF}),
    ("temperature", {"temperature": "1"}),
    ("top_p", {"top_p": 0.0}),
    ("top_p", {"top_p": 1.1}),
    ("top_p", {"top_p": NAN}),
    ("top_k", {"top_k": -2}),
    ("top_k", {"top_k": 2**31}),
    ("top_k", {"top_k": 1.5}),
    ("top_k", {"top_k": True}),
    ("stop_token_ids", {"stop_token_ids": (1.0,)}),
    ("min_p", {"min_p": -0.1}),
    ("min_p", {"min_p": 1.1}),
    ("min_p", {"min_p": NAN}),
    ("presence_penalty", {"presence_penalty": 2.1}),
    ("presence_penalty", {"presence_penalty": NAN}),
    ("frequency_penalty", {"frequency_penalty": -2.1}),
    ("frequency_penalty", {"frequency_penalty": NAN}),
    ("repetition_penalty", {"repetition_penalty": 0.0}),
    ("repetition_penalty", {"repetition_penalty": 5e-324}),
    ("repetition_penalty", {"repetition_penalty": 1e-40}),
    ("repetition_penalty", {"repetition_penalty": 0.0099}),
    ("repetition_penalty", {"repetition_penalty": 101.0}),
    ("repetition_penalty", {"repetition_penalty": "1"}),
    ("repetition_penalty", {"repetition_penalty": NAN}),
    ("n", {"n": 0}),
    ("n", {"n": 257}),
    ("min_tokens", {"min_tokens": -1}),
    ("min_tokens", {"min_tokens": 6, "max_tokens": 5}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": -1}),
    ("max_tokens", {"max_tokens": 2**31}),
    ("logprobs", {"logprobs": 21}),
    ("logprobs", {"logprobs": -1}),
    ("prompt_logprobs", {"prompt_logprobs": 21}),
    ("prompt_logprobs", {"prompt_logprobs": -1}),
    ("seed", {"seed": 2**63}),
    ("seed", {"seed": -(2**63) - 1}),
    ("seed", {"seed": 1.0}),
    ("stop", {"stop": "text"}),
    ("stop", {"stop": ("",)}),
    ("stop", {"stop": ("x" * 257,)}),
    ("stop", {"stop": ("x",) * 17}),
    ("stop", {"stop": (b"x",)}),
    ("stop_token_ids", {"stop_token_ids": tuple(range(17))}),
    ("allowed_token_ids", {"allowed_token_ids": ()}),
    ("allowed_token_ids", {"allowed_token_ids": tuple(range(1025))}),
    ("logit_bias", {"logit_bias": dict.fromkeys(range(1025), 0.0)}),
    (
        "logit_bias",
        {"logit_bias": dict.fromkeys(range(1025), 0.0), "allowed_token_ids": (1,)},
    ),
    ("logit_bias", {"logit_bias": {1: 100.5}}),
    ("logit_bias", {"logit_bias": {1: NAN}}),
]


@pytest.mark.parametrize(
    ("field", "values"), BAD_PARAMS, ids=lambda x: str(x)[:40].replace("'", "")
)
def test_bad_parameters_are_refused_by_name(field: str, values: dict) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{field} ") as caught:
        SamplingParams(**values)
    assert caught.value.field == field
    assert len(str(caught.value)) < 300, "a value is never repeated at length"


GOOD_PARAMS = [
    {"temperature": 0},
    {"temperature": 100.0},
    {"top_p": 1e-6, "top_k": 2**31 - 1, "min_p": 1.0},
    {"repetition_penalty": 100.0, "presence_penalty": -2.0, "frequency_penalty": 2.0},
    {"n": 16, "max_tokens": 1, "min_tokens": 1},
    {"seed": 2**63 - 1, "logprobs": 0, "prompt_logprobs": 20},
    {"seed": -(2**63)},
    {"stop": ("x" * 256,) * 16, "stop_token_ids": tuple(range(16))},
    {"logit_bias": dict.fromkeys(range(1024), -100.0)},
    {"allowed_token_ids": tuple(range(1024))},
]


@pytest.mark.parametrize("values", GOOD_PARAMS, ids=lambda x: str(x)[:40])
def test_the_bounds_themselves_are_fine(values: dict) -> None:
    params = SamplingParams(**values)
    assert {name: getattr(params, name) for name in values} == values


def test_only_a_temperature_of_nearly_zero_is_greedy() -> None:
    assert SamplingParams(temperature=0).is_greedy
    assert SamplingParams(temperature=9e-6).is_greedy
    assert not SamplingParams(temperature=1e-5).is_greedy


BAD_SUBMITS = [
    ("prompt", [], {}),
    ("prompt", [-1], {}),
    ("prompt", [1, 101], {}),
    ("prompt", [2**31 - 1], {}),
    ("prompt", [1] * 128, {}),
    ("prompt", [1] * 1000, {}),
    ("prompt", [[1, 2]], {}),
    ("prompt", [1.5], {}),
    ("prompt", [NAN], {}),
    ("max_tokens", [1] * 100, {"max_tokens": 29}),
    ("min_tokens", [1] * 100, {"min_tokens": 29}),
    ("stop_token_ids", [1], {"stop_token_ids": (101,)}),
    ("stop_token_ids", [1], {"stop_token_ids": (-1,)}),
    ("stop_token_ids", [1], {"stop_token_ids": tuple(range(16))}),  # and one EOS
    ("logit_bias", [1], {"logit_bias": {101: 1.0}}),
    ("logit_bias", [1], {"logit_bias": {-1: 1.0}}),
    ("allowed_token_ids", [1], {"allowed_token_ids": (1, 101)}),
    ("allowed_token_ids", [1], {"allowed_token_ids": (100,), "min_tokens": 1}),
    (
        "allowed_token_ids",
        [1],
        {"allowed_token_ids": (5, 100), "min_tokens": 1, "stop_token_ids": (5,)},
    ),
]


@pytest.mark.parametrize(
    ("field", "prompt", "values"), BAD_SUBMITS, ids=lambda x: str(x)[:40]
)
def test_a_request_the_model_cannot_serve_is_answered_with_its_fault(
    field: str, prompt: list, values: dict
) -> None:
    engine = toy_engine(eos=(100,))
    healthy = SamplingParams(temperature=0.0, max_tokens=9)
    submit(engine, [1, 2, 3], handle=0, params=healthy)
    engine.step()
    engine.submit(
        Submit(
            handle=Handle(1),
            prompt=np.array(prompt) if prompt else np.zeros(0, np.int32),
            params=SamplingParams(temperature=0.0, **values),
        )
    )
    seen = run(engine)
    end = seen.finished[1]
    assert (end.reason, end.field) == (FinishReason.ERROR, field)
    assert end.message.startswith(field) and len(end.message) < 300
    assert seen.tokens == {0: expected([1, 2, 3], count=9)}
    assert engine.load().used_pages == 0


@pytest.mark.parametrize(("most", "count"), [(49_932, 20), (2**19, 1)])
def test_prompt_logprobs_of_a_long_prompt_are_bounded(most: int, count: int) -> None:
    info = dataclasses.replace(toy_engine().infos[0], max_model_len=2**20)

    def check(*, size: int) -> None:
        params = SamplingParams(prompt_logprobs=count)
        prompt = np.ones(size, np.int32)
        check_submit(Submit(handle=Handle(1), prompt=prompt, params=params), info=info)

    check(size=most)
    with pytest.raises(InvalidRequestError, match="at most 1048576 can be asked"):
        check(size=most + 1)


def test_the_largest_requests_that_fit_are_served() -> None:
    engine = toy_engine()
    submit(engine, [1] * 127, handle=0, params=GREEDY)
    submit(engine, [1], handle=1, params=SamplingParams(max_tokens=127, seed=1))
    submit(engine, [100], handle=2, params=SamplingParams(min_tokens=127, seed=1))
    seen = run(engine)
    assert [len(seen.tokens[handle]) for handle in range(3)] == [1, 127, 127]


def test_a_handle_in_use_is_refused() -> None:
    engine = toy_engine()
    submit(engine, [1], handle=0, params=GREEDY)
    submit(engine, [2], handle=0, params=GREEDY)
    frame = engine.step()
    assert frame is not None
    (end,) = frame.finished
    assert (end.field, end.message) == ("handle", "handle 0 is in use")


def test_an_idle_engine_answers_an_invalid_request() -> None:
    engine = toy_engine()
    submit(engine, [101], handle=3, params=GREEDY)
    assert engine.has_work
    seen = run(engine)
    assert seen.finished[3].message == "prompt holds token id 101; ids go from 0 to 100"
    assert engine.load().steps == 0
