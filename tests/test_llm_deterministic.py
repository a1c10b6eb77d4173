"""deterministic=True: what a sequence is told depends on itself alone, to the bit.

The same requests run alone, in a crowd, with preemptions, moved by pages and by tokens,
and after a cached prefix; their log probabilities, as float32, are compared as bits.
"""

import asyncio
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from mell_jax import LLM, RequestOutput, SamplingParams
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet_view import MoveOutcome
from mell_jax.models.decoder import Decoder
from mell_jax.models.uniform import uniform_config
from mell_jax.scheduler.transfer import Mode

OPTIONS: dict[str, Any] = {"max_rows": 8, "max_model_len": 256, "kv_pages": 120}
PLAIN: dict[str, Any] = {**OPTIONS, "decode_rows": (8,), "token_budget": 64}
CONFIG = uniform_config(
    vocab_size=1000,
    hidden_size=64,
    intermediate_size=96,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_position_embeddings=256,
    windows=(40, None),
)
PARAMS = SamplingParams(max_tokens=24, ignore_eos=True, logprobs=20)
KINDS = [
    {"temperature": 0.0},
    {"temperature": 0.8, "seed": 1, "logprobs_mode": "processed"},
    {"temperature": 1.2, "seed": 2, "top_p": 0.9, "top_k": 30, "prompt_logprobs": 3},
    {"temperature": 1.0, "seed": 3, "repetition_penalty": 1.3, "presence_penalty": 0.5},
]
Bits = tuple[tuple[int, ...], bytes, bytes]


def drawn_prompt(rng: np.random.Generator) -> list[int]:
    return [0, *rng.integers(3, 1000, int(rng.integers(3, 120))).tolist()]


RNG = np.random.default_rng(5)
ASKED = [drawn_prompt(RNG) for _ in KINDS]
EACH = [dataclasses.replace(PARAMS, **kind) for kind in KINDS]


def crowd(seed: int) -> tuple[list[list[int]], list[SamplingParams]]:
    rng = np.random.default_rng(seed)
    params = [
        dataclasses.replace(
            PARAMS, max_tokens=int(rng.integers(1, 60)), seed=seed, logprobs=None
        )
        for _ in range(14)
    ]
    return [drawn_prompt(rng) for _ in params], params


def bits(output: RequestOutput) -> Bits:
    """Everything that was told of an answer and its prompt, as float32."""
    (answer,) = output.completions
    rows = [*(answer.logprobs or ())]
    scored = [row for row in output.prompt_logprobs or () if row is not None]

    def told(rows: Sequence[Any]) -> bytes:
        numbers = [[row.logprob, *(value for _, value in row.top)] for row in rows]
        return np.array(numbers, np.float32).tobytes()

    return answer.token_ids, told(rows), told(scored)


def alone(llm: LLM) -> list[Bits]:
    return [
        bits(llm.generate([prompt], params)[0])
        for prompt, params in zip(ASKED, EACH, strict=True)
    ]


def crowded(llm: LLM, seed: int) -> list[Bits]:
    """The requests start one after the other among many others."""
    prompts, params = crowd(seed)

    async def all_of_them() -> list[Bits]:
        others = asyncio.create_task(llm.agenerate(prompts, params))
        found = []
        for prompt, own in zip(ASKED, EACH, strict=True):
            found.append(asyncio.create_task(llm.agenerate([prompt], own)))
            await asyncio.sleep(0.02)
        outputs = [(await each)[0] for each in found]
        await others
        return [bits(output) for output in outputs]

    return asyncio.run(all_of_them())


@pytest.fixture(scope="module", autouse=True)
def kept_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Most of these engines compile the same programs."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("programs")
        folder.chmod(0o700)
        for options in (OPTIONS, PLAIN):
            patch.setitem(options, "compilation_cache_dir", str(folder))
        yield


@pytest.fixture(scope="module")
def module() -> Decoder:
    made = Decoder(CONFIG, rngs=nnx.Rngs(3))
    keys = iter(jax.random.split(jax.random.key(1), 99))
    for _, parameter in nnx.to_flat_state(nnx.state(made, nnx.Param)):
        parameter[...] = 0.3 * jax.random.normal(next(keys), parameter.shape)
    return made


@pytest.fixture(scope="module")
def llm(module: Decoder) -> Iterator[LLM]:
    with LLM.from_nnx(module, deterministic=True, **OPTIONS) as made:
        yield made


@pytest.fixture(scope="module")
def expected(llm: LLM) -> list[Bits]:
    return alone(llm)


def test_nothing_depends_on_neighbours(llm: LLM, expected: list[Bits]) -> None:
    for seed in range(3):
        assert crowded(llm, seed) == expected


def test_a_cached_prefix_changes_nothing(llm: LLM, expected: list[Bits]) -> None:
    before = llm.load().prefix_hit_tokens
    assert alone(llm) == expected
    assert llm.load().prefix_hit_tokens > before


def test_preemptions_change_nothing(module: Decoder, expected: list[Bits]) -> None:
    options = {**OPTIONS, "deterministic": True, "kv_pages": 30}
    with LLM.from_nnx(module, **options) as small:
        for seed in range(3):
            assert crowded(small, seed) == expected
        assert small.load().preemptions > 0


@pytest.mark.parametrize("mode", [Mode.KV, Mode.TOKENS])
def test_moves_change_nothing(
    module: Decoder, expected: list[Bits], mode: Mode
) -> None:
    fleet = FleetConfig(policy="load_balance", mode=mode, fault=Fault(move_every=1))
    options = {**OPTIONS, "instances": 2, "device_ids": (0, 0), "fleet": fleet}
    with LLM.from_nnx(module, deterministic=True, **options) as moving:
        for seed in range(2):
            assert crowded(moving, seed) == expected
        view = moving.load().fleet
    assert view is not None and view.stats.count(MoveOutcome.COMMITTED) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "bfloat16"},
        {"tensor_parallel": 2},
        {"token_budget": 33, "max_rows": 7},
    ],
    ids=str,
)
def test_it_holds_for_a_real_model_in_other_forms(options: dict[str, Any]) -> None:
    with LLM(deterministic=True, **{**OPTIONS, **options}) as demo:
        by_itself = alone(demo)
        for seed in range(5):
            assert crowded(demo, seed) == by_itself


def test_without_it_neighbours_are_seen(module: Decoder) -> None:
    """The control: buckets of other sizes sum in another order."""
    with LLM.from_nnx(module, **PLAIN) as plain:
        by_itself = alone(plain)
        assert any(crowded(plain, seed) != by_itself for seed in range(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decode_rows": (4,)}, "decode_rows must be empty with deterministic"),
        ({"attention_backend": "xla"}, "attention_backend must be auto"),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        EngineConfig(deterministic=True, **options)
