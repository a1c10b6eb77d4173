"""What `generation_config.json` proposes for requests that leave parameters out."""

import json

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.checkpoints.generation import SamplingDefaults, read_sampling
from mell_jax.engine.default_params import check_sampling, default_params
from mell_jax.engine.params import SamplingParams

QWEN3 = {
    "bos_token_id": 151643,
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "pad_token_id": 151643,
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
    "transformers_version": "4.51.0",
}


def read(directory, values):
    (directory / "generation_config.json").write_text(json.dumps(values))
    return read_sampling(directory)


def test_a_published_file_is_read(tmp_path):
    sampling = read(tmp_path, QWEN3)
    assert sampling == SamplingDefaults(temperature=0.6, top_k=20, top_p=0.95)
    assert default_params(sampling) == SamplingParams(
        temperature=0.6, top_k=20, top_p=0.95
    )


@pytest.mark.parametrize(
    ("values", "proposed"),
    [
        ({}, {}),
        ({"eos_token_id": 2, "max_length": 4096}, {}),
        ({"do_sample": True}, {}),  # and not the top_k of 50 that transformers takes
        ({"do_sample": None, "temperature": None, "top_k": None}, {}),
        ({"do_sample": False}, {"temperature": 0.0}),
        (
            {"do_sample": False, "temperature": 0.7, "top_p": 0.8},
            {"temperature": 0.0, "top_p": 0.8},
        ),
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"top_k": 50}, {"top_k": 50}),
        ({"top_k": -1}, {"top_k": -1}),
        ({"top_p": 1}, {"top_p": 1.0}),
        ({"min_p": 0.05}, {"min_p": 0.05}),
        ({"repetition_penalty": 1.05}, {"repetition_penalty": 1.05}),
    ],
)
def test_only_what_the_file_says_counts(tmp_path, values, proposed):
    sampling = read(tmp_path, values)
    assert sampling.proposed() == proposed
    assert sampling.passed_over == ()
    check_sampling(sampling, directory=tmp_path)


def test_a_directory_without_the_file_proposes_nothing(tmp_path):
    assert read_sampling(tmp_path) == SamplingDefaults()
    assert default_params(SamplingDefaults()) == SamplingParams()


@pytest.mark.parametrize(
    ("values", "passed_over"),
    [
        ({"num_beams": 4, "penalty_alpha": 0.6}, ("num_beams", "penalty_alpha")),
        ({"no_repeat_ngram_size": 3, "bad_words_ids": [[7]]}, None),
        ({"typical_p": 0.9, "suppress_tokens": [1, 2]}, None),
        ({"max_new_tokens": 2048}, ("max_new_tokens",)),
        ({"num_beams": 1, "typical_p": 1.0, "no_repeat_ngram_size": 0}, ()),
        ({"penalty_alpha": None, "suppress_tokens": [], "sequence_bias": {}}, ()),
    ],
)
def test_what_else_would_choose_tokens_is_told(tmp_path, values, passed_over):
    expected = set(values) if passed_over is None else set(passed_over)
    assert set(read(tmp_path, values).passed_over) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1}, "temperature must be a finite number from 0.0 to 100.0"),
        ({"temperature": "0.6"}, "temperature must be a finite number, found a string"),
        ({"temperature": float("nan")}, "temperature must be a finite number, found"),
        ({"temperature": True}, "temperature must be a finite number, found a boolean"),
        ({"top_p": 2}, "top_p must be in (0, 1], got 2.0"),
        ({"top_p": 0}, "top_p must be in (0, 1], got 0.0"),
        ({"top_k": -5}, "top_k must be an integer from 0 to 2147483647, got -5"),
        ({"top_k": 20.5}, "top_k must be an integer, found a number, 20.5"),
        ({"min_p": 1.5}, "min_p must be a finite number from 0.0 to 1.0, got 1.5"),
        ({"repetition_penalty": 0}, "repetition_penalty must be a finite number from"),
        ({"do_sample": "no"}, "do_sample must be true or false, found a string, no"),
    ],
)
def test_a_value_that_no_request_may_have_is_refused_with_the_way_out(
    tmp_path, values, message
):
    with pytest.raises(CheckpointError) as error:
        check_sampling(read(tmp_path, values), directory=tmp_path)
    told = str(error.value)
    assert f"{tmp_path / 'generation_config.json'}: {message}" in told
    assert 'generation_config="none"' in told
