"""The library door, with the demo model that ships."""

import asyncio
import copy
import dataclasses
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flax import nnx
from orbax.checkpoint import v1

from mell_jax import (
    LLM,
    Grammar,
    GrammarError,
    InvalidRequestError,
    RequestOutput,
    SamplingParams,
)
from mell_jax.engine.build import demo_directory
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet_view import MoveOutcome
from mell_jax.models.decoder import Decoder
from mell_jax.models.uniform import uniform_config

SMALL = {
    "max_rows": 32,
    "decode_rows": (32,),
    "token_budget": 64,
    "max_model_len": 256,
    "kv_pages": 129,
}
GREEDY = SamplingParams(temperature=0.0, max_tokens=16)
PROMPTS = ["Once upon a time", "One day, a little dog", "The end"]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(**SMALL) as llm:
        yield llm


def texts(outputs: list[RequestOutput]) -> list[str]:
    return [output.text for output in outputs]


def test_the_demo_model_writes_words(llm: LLM) -> None:
    (output,) = llm.generate("Once upon a time", GREEDY)
    words = output.text.split()
    assert len(words) > 5
    assert sum(word.strip('.,!?"').isalpha() for word in words) > 0.8 * len(words)
    assert output.completions[0].finish_reason == "length"


def test_a_batch_says_what_each_prompt_says_alone(llm: LLM) -> None:
    together = texts(llm.generate(PROMPTS, GREEDY))
    alone = [llm.generate(prompt, GREEDY)[0].text for prompt in PROMPTS]
    assert together == alone


def test_streamed_text_is_the_generated_text(llm: LLM) -> None:
    deltas = list(llm.stream(PROMPTS[0], GREEDY))
    assert "".join(d.text for d in deltas) == llm.generate(PROMPTS[0], GREEDY)[0].text
    assert [d.finish is not None for d in deltas[:-1]] == [False] * (len(deltas) - 1)
    assert deltas[-1].finish is not None


def test_leaving_a_stream_early_frees_its_pages(llm: LLM) -> None:
    stream = llm.stream(PROMPTS[0], dataclasses.replace(GREEDY, max_tokens=200))
    next(stream)
    stream.close()
    llm.generate(PROMPTS[2], dataclasses.replace(GREEDY, max_tokens=2))
    assert (llm.load().running, llm.load().used_pages) == (0, 0)


def test_samples_of_one_seed_differ_and_repeat(llm: LLM) -> None:
    params = SamplingParams(temperature=1.0, max_tokens=16, n=3, seed=7)
    (first,) = llm.generate(PROMPTS[0], params)
    (again,) = llm.generate(PROMPTS[0], params)
    said = [completion.text for completion in first.completions]
    assert said == [completion.text for completion in again.completions]
    assert len(set(said)) == 3
    alone = llm.generate(PROMPTS[0], dataclasses.replace(params, n=1))
    assert alone[0].text == said[0]


def test_a_seed_gives_the_same_tokens_alone_in_a_crowd_and_after_preemption(
    llm: LLM,
) -> None:
    params = [
        SamplingParams(
            temperature=0.9, top_p=0.95, max_tokens=80, seed=n, ignore_eos=True
        )
        for n in range(32)
    ]
    before = llm.load().preemptions
    crowd = llm.generate([PROMPTS[n % 3] for n in range(32)], params)
    assert llm.load().preemptions > before  # 32 x 6 pages are more than there are
    for n in (0, 7, 15, 31):
        (alone,) = llm.generate(PROMPTS[n % 3], params[n])
        assert alone.token_ids == crowd[n].token_ids
    assert len({output.token_ids for output in crowd}) == 32


def test_ids_in_are_as_good_as_text(llm: LLM) -> None:
    assert llm.tokenizer is not None
    ids = llm.tokenizer.encode(PROMPTS[1])
    by_ids, by_text = llm.generate([ids, PROMPTS[1]], GREEDY)
    assert by_ids.token_ids == by_text.token_ids
    assert llm.generate(ids, GREEDY)[0].token_ids == by_ids.token_ids


def test_a_stop_string_ends_the_text_before_it(llm: LLM) -> None:
    whole = llm.generate(PROMPTS[0], GREEDY)[0].text
    stop = whole.split()[3]
    (output,) = llm.generate(PROMPTS[0], dataclasses.replace(GREEDY, stop=(stop,)))
    assert output.text == whole[: whole.index(stop)]
    assert output.completions[0].stop_string == stop


def test_a_bad_prompt_is_refused_by_name(llm: LLM) -> None:
    with pytest.raises(InvalidRequestError, match="prompt") as caught:
        llm.generate([PROMPTS[0], [1, 10**6]], GREEDY)
    assert caught.value.field == "prompt"
    assert llm.generate(PROMPTS[0], GREEDY)[0].text  # nothing else suffered


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "sizes": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
    },
    "required": ["name", "sizes"],
    "additionalProperties": False,
}


def is_of_schema(text: str) -> bool:
    answer = json.loads(text)
    assert list(answer) == ["name", "sizes"]
    return len(answer["name"]) <= 12 and len(answer["sizes"]) <= 3


SHAPES = {
    "schema": (Grammar.from_json_schema(SCHEMA), is_of_schema),
    "regex": (
        Grammar.from_regex("[a-c]{3,9}-[0-9]+!"),
        re.compile("[a-c]{3,9}-[0-9]+!").fullmatch,
    ),
    "choice": (
        Grammar.from_choice(["a red ball", "a blue one"]),
        ["a red ball", "a blue one"].__contains__,
    ),
    "lark": (
        Grammar.from_lark('start: "I " VERB " it."\nVERB: "see" | "hear"\n'),
        re.compile("I (see|hear) it[.]").fullmatch,
    ),
    "thought": (
        Grammar.from_choice(["yes", "no"]).after("e"),
        re.compile(r"[^e]*e(yes|no)", re.DOTALL).fullmatch,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_answers_have_the_shape_that_is_asked_for(llm: LLM, shape: str) -> None:
    grammar, is_right = SHAPES[shape]
    params = [
        SamplingParams(grammar=grammar, temperature=t, seed=seed, max_tokens=120)
        for t, seed in ((0.0, 0), (1.0, 1), (1.0, 2))
    ]
    for output in llm.generate(PROMPTS, params):
        (answer,) = output.completions
        if answer.finish_reason == "stop":
            assert is_right(answer.text), answer.text
        else:
            assert shape in ("regex", "schema", "thought")  # numbers may go on and on
    (output,) = llm.generate(PROMPTS[0], params[0])
    streamed = list(llm.stream(PROMPTS[0], params[0]))
    assert "".join(delta.text for delta in streamed) == output.text


def test_samples_of_a_grammar_are_seeded_and_need_no_quiet(llm: LLM) -> None:
    """Each of two samples has the shape, and its tokens, whoever is beside it."""
    grammar, is_right = SHAPES["schema"]
    asked = SamplingParams(grammar=grammar, n=2, seed=11, max_tokens=100)
    (alone,) = llm.generate(PROMPTS[0], asked)
    ids = [each.token_ids for each in alone.completions]
    assert ids[0] != ids[1]
    for each in alone.completions:
        assert each.finish_reason == "length" or is_right(each.text)
    others = [
        SamplingParams(seed=n, max_tokens=40, grammar=[None, grammar][n % 2])
        for n in range(10)
    ]
    crowd = llm.generate([PROMPTS[n % 3] for n in range(10)], others)
    mixed = llm.generate(
        [*(PROMPTS[n % 3] for n in range(10)), PROMPTS[0]], [*others, asked]
    )
    assert [each.token_ids for each in mixed[-1].completions] == ids
    assert [each.token_ids for each in mixed[:-1]] == [e.token_ids for e in crowd]


def test_grammars_are_values(llm: LLM) -> None:
    grammar, _ = SHAPES["schema"]
    assert grammar == Grammar.from_json_schema(json.dumps(SCHEMA))
    params = SamplingParams(grammar=grammar, max_tokens=4)
    again = copy.deepcopy(params)
    assert again == params != SamplingParams(max_tokens=4)
    assert {again.grammar: 1}[grammar] == 1


def test_a_grammar_that_cannot_be_used_is_told_of(llm: LLM) -> None:
    with pytest.raises(InvalidRequestError, match="grammar must be a Grammar"):
        SamplingParams(grammar={})  # type: ignore[arg-type]
    with pytest.raises(GrammarError, match="is empty"):
        Grammar.from_lark("")
    for grammar, says in (
        (Grammar.from_json_schema({"not": {}}), 'has the keyword "not"'),
        (Grammar.from_regex("(?=a)b"), "look-around"),
        (Grammar.from_lark("start: other"), "other"),
    ):
        with pytest.raises(InvalidRequestError, match=says) as caught:
            llm.generate(PROMPTS[0], dataclasses.replace(GREEDY, grammar=grammar))
        assert caught.value.field == "grammar"
    assert llm.generate(PROMPTS[0], GREEDY)[0].text  # nothing else suffered


def test_every_prompt_may_have_its_own_params(llm: LLM) -> None:
    each = [dataclasses.replace(GREEDY, max_tokens=n) for n in (1, 2, 3)]
    outputs = llm.generate(PROMPTS, each)
    assert [len(output.token_ids) for output in outputs] == [1, 2, 3]
    with pytest.raises(ValueError, match="3 prompts need as many params, got 2"):
        llm.generate(PROMPTS, each[:2])


def test_async_callers_share_the_engine(llm: LLM) -> None:
    async def both() -> tuple[str, str]:
        outputs, streamed = await asyncio.gather(
            llm.agenerate(PROMPTS[0], GREEDY), collect()
        )
        return outputs[0].text, streamed

    async def collect() -> str:
        return "".join([d.text async for d in llm.astream(PROMPTS[0], GREEDY)])

    generated, streamed = asyncio.run(both())
    assert generated == streamed == llm.generate(PROMPTS[0], GREEDY)[0].text


def test_threads_share_the_engine(llm: LLM) -> None:
    said: dict[int, list[str]] = {}

    def ask(index: int) -> None:
        said[index] = texts(llm.generate(PROMPTS, GREEDY))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(said.values()) == [texts(llm.generate(PROMPTS, GREEDY))] * 4


def test_nothing_compiles_after_readiness(llm: LLM) -> None:
    before = llm.load().compilations
    llm.generate(PROMPTS * 7, GREEDY)
    llm.generate(
        PROMPTS[0],
        SamplingParams(
            n=3,
            max_tokens=8,
            min_tokens=4,
            top_k=5,
            top_p=0.9,
            min_p=0.01,
            presence_penalty=0.5,
            frequency_penalty=0.5,
            repetition_penalty=1.1,
            logit_bias={5: 2.0},
            logprobs=5,
            prompt_logprobs=5,
            stop=("zzz",),
        ),
    )
    long = [list(range(5, 105))]
    llm.generate(long, dataclasses.replace(GREEDY, prompt_logprobs=0))
    llm.generate(
        PROMPTS[1], dataclasses.replace(GREEDY, allowed_token_ids=(10, 11, 12))
    )
    assert llm.load().compilations == before


TRAINED_SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 1,
    "num_heads": 1,
    "num_kv_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 64,
}
TRAINED = uniform_config(**TRAINED_SIZES)
SMALLER = {**SMALL, "max_model_len": 64, "kv_pages": 33}


def test_a_trained_module_is_served_as_it_is() -> None:
    module = Decoder(TRAINED, rngs=nnx.Rngs(3))
    with LLM.from_nnx(module, eos_ids=[63], **SMALLER) as llm:
        (output,) = llm.generate([[5, 6, 7]], GREEDY)
        assert len(output.token_ids) == 16
        assert output.text == ""  # no tokenizer: ids in, ids out
        with pytest.raises(InvalidRequestError, match="without a tokenizer"):
            llm.generate("text", GREEDY)
        shaped = dataclasses.replace(GREEDY, grammar=Grammar.json_object())
        with pytest.raises(InvalidRequestError, match="grammar needs a tokenizer"):
            llm.generate([[5, 6, 7]], shaped)
        assert llm.info.eos_token_ids == (63,)
        assert llm.info.architecture == "LlamaForCausalLM"


def save_steps(directory: Path, modules: dict[int, Decoder]) -> None:
    with v1.training.Checkpointer(directory) as checkpointer:
        for step, module in modules.items():
            checkpointer.save(step, nnx.to_pure_dict(nnx.state(module)))


def test_a_training_that_left_no_config_file_is_served(tmp_path: Path) -> None:
    modules = {step: Decoder(TRAINED, rngs=nnx.Rngs(step)) for step in (4, 30)}
    save_steps(tmp_path, modules)
    said = {}
    for step, module in modules.items():
        with LLM.from_nnx(module, **SMALLER) as llm:
            said[step] = llm.generate([[5, 6, 7]], GREEDY)[0].token_ids
    assert said[4] != said[30]
    for wanted, step in ((None, 30), (4, 4)):
        options = {**SMALLER, "checkpoint_step": wanted}
        with LLM(tmp_path, config=TRAINED, **options) as llm:
            (output,) = llm.generate([[5, 6, 7]], GREEDY)
            assert output.token_ids == said[step]
            assert output.text == ""  # no tokenizer: ids in, ids out


def test_a_config_beside_a_config_file_is_refused() -> None:
    with pytest.raises(ValueError, match="and so does the config that was given"):
        LLM(config=TRAINED)


@pytest.mark.parametrize(
    ("options", "architecture"),
    [
        ({"has_qk_norm": True}, "Qwen3ForCausalLM"),
        ({"has_qk_norm": True, "mlp_bias": True}, "Decoder"),  # nobody has this
    ],
)
def test_a_module_is_called_what_its_options_are_called(
    options: dict[str, bool], architecture: str
) -> None:
    config = uniform_config(**TRAINED_SIZES, **options)
    module = Decoder(config, rngs=nnx.Rngs(3))
    with LLM.from_nnx(module, **SMALLER) as llm:
        assert llm.info.architecture == architecture


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="max_row"):
        LLM(max_row=8)


def test_options_that_contradict_the_model_are_refused_before_loading() -> None:
    with pytest.raises(ValueError, match="max_model_len must be"):
        LLM(max_model_len=10**6)
    assert demo_directory().is_dir()


def test_weights_in_bfloat16_say_nearly_what_those_in_float32_say(llm: LLM) -> None:
    with LLM(dtype="bfloat16", **SMALL) as half:
        said = texts(half.generate(PROMPTS, GREEDY))
    expected = texts(llm.generate(PROMPTS, GREEDY))
    assert [text[:16] for text in said] == [text[:16] for text in expected]


def test_a_fleet_says_what_one_instance_says(llm: LLM) -> None:
    prompts = PROMPTS * 14  # more than one instance has rows
    fleet = FleetConfig(policy="load_balance", fault=Fault(move_every=1))
    with LLM(instances=2, device_ids=(0, 0), fleet=fleet, **SMALL) as moving:
        said = texts(moving.generate(prompts, GREEDY))
        view = moving.load().fleet
    assert said == texts(llm.generate(prompts, GREEDY))
    assert view is not None and view.stats.count(MoveOutcome.COMMITTED) > 0
