"""What the library generates without parameters, by the model's own files."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from flax import nnx

from mell_jax import LLM, SamplingParams
from mell_jax.checkpoints import CheckpointError
from mell_jax.engine.build import build_engine, demo_directory, settle_engine
from mell_jax.engine.config import EngineConfig
from mell_jax.models.decoder import Decoder
from mell_jax.models.uniform import uniform_config

SMALL: dict[str, Any] = {
    "max_rows": 4,
    "decode_rows": (4,),
    "token_budget": 64,
    "max_model_len": 64,
    "kv_pages": 40,
}
PROMPT = "Once upon a time"
WILD = {"do_sample": True, "temperature": 2.5, "top_k": 20, "top_p": 0.95}


def demo_with(directory: Path, **generation: object) -> Path:
    """The demo model, with more in its `generation_config.json`."""
    path = directory / "model"
    shutil.copytree(demo_directory(), path)
    file = path / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **generation}))
    return path


def test_a_call_without_parameters_samples_as_the_model_proposes(
    tmp_path: Path,
) -> None:
    path = demo_with(tmp_path, **WILD)
    spelled = SamplingParams(temperature=2.5, top_k=20, top_p=0.95)
    with LLM(path, **SMALL) as llm:
        assert llm.default_params == spelled
        said = llm.generate(PROMPT)[0].token_ids
        streamed = tuple(t for d in llm.stream(PROMPT) for t in d.token_ids)
        shorter = dataclasses.replace(llm.default_params, max_tokens=3)
        assert len(llm.generate(PROMPT, shorter)[0].token_ids) == 3
    with LLM(path, generation_config="none", **SMALL) as llm:  # draws the same seeds
        assert llm.default_params == SamplingParams()
        assert llm.generate(PROMPT, spelled)[0].token_ids == said
        assert llm.generate([PROMPT], [spelled])[0].token_ids == streamed
        seeded = SamplingParams(seed=1), dataclasses.replace(spelled, seed=1)
        mild, wild = llm.generate([PROMPT] * 2, seeded)
        assert mild.token_ids != wild.token_ids


def test_a_model_that_does_not_sample_is_greedy(tmp_path: Path) -> None:
    path = demo_with(tmp_path, do_sample=False, temperature=0.7)
    with LLM(path, **SMALL) as llm:
        greedy = llm.generate(PROMPT, SamplingParams(temperature=0.0))
        assert llm.default_params.is_greedy
        for _ in range(2):
            assert llm.generate(PROMPT)[0].token_ids == greedy[0].token_ids


def test_a_bad_proposal_is_refused_early_unless_nobody_reads_it(tmp_path: Path) -> None:
    config = EngineConfig(model=str(demo_with(tmp_path, top_p=2)), **SMALL)
    for start in (build_engine, settle_engine):
        with pytest.raises(CheckpointError, match=r"top_p must be in \(0, 1\], got 2"):
            start(config)
    settle_engine(dataclasses.replace(config, generation_config="none"))


def test_a_module_has_the_ends_of_its_tokenizer_s_folder_and_not_its_sampling(
    tmp_path: Path,
) -> None:
    path = demo_with(tmp_path, do_sample=False, eos_token_id=[7, -1, 5000])
    config = uniform_config(
        vocab_size=1031,
        hidden_size=32,
        intermediate_size=48,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=32,
        max_position_embeddings=64,
    )
    module = Decoder(config, rngs=nnx.Rngs(3))
    with LLM.from_nnx(module, tokenizer=path, **SMALL) as llm:
        assert llm.info.eos_token_ids == (7, 1)
        assert llm.default_params == SamplingParams()


def test_another_word_for_the_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="generation_config must be model or none"):
        EngineConfig(generation_config="auto")  # type: ignore[arg-type]


def test_what_is_not_taken_from_the_files_is_told_in_one_line_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = demo_with(tmp_path, num_beams=4, eos_token_id=[1, -1, 5000])
    file = path / "tokenizer_config.json"
    added = {"7000": {"content": "<end>"}}
    file.write_text(json.dumps({"eos_token": "<end>", "added_tokens_decoder": added}))
    with caplog.at_level(logging.WARNING):
        built = build_engine(EngineConfig(model=str(path), **SMALL))
    assert built.models[0].spec.eos_ids == (1,)
    told = [record.getMessage() for record in caplog.records]
    (outside,) = [line for line in told if "outside the vocabulary" in line]
    assert "tokens -1, 5000, 7000 are outside the vocabulary of 1031" in outside
    assert outside.endswith("a text ends with 1")
    (beams,) = [line for line in told if "num_beams" in line]
    assert beams.startswith("model: generation_config.json says more about how tokens")
