"""Tunix gets from a rollout what it expects of its own engines."""

import functools
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mell_jax.integrations import tunix
from mell_jax.integrations.tunix.options import defaults, places
from tests.integrations import standin
from tests.integrations.standin import (
    EOS,
    Config,
    Llama3,
    RolloutConfig,
    Words,
    add_lora,
    logps,
)

PROMPTS = ["t5 t6 t7", "t9", "t3 t4 t5 t6"]
CONFIG = RolloutConfig()
OPTIONS = {"max_rows": 4, "decode_rows": (4,), "token_budget": 32, "kv_pages": 33}
ALPHA = 3.0


@pytest.fixture(scope="module")
def engine():
    with pytest.MonkeyPatch.context() as patch:
        standin.install(patch)
        tunix._rollout_class.cache_clear()
        yield tunix.MellRollout
        tunix._rollout_class.cache_clear()


def mesh_of(*devices, shape=None):
    grid = np.array([jax.devices()[n] for n in devices]).reshape(shape or (1, -1))
    return jax.sharding.Mesh(grid, ("fsdp", "tp"))


MESH = mesh_of(2, 3, 4, 5, shape=(2, 2))


@pytest.fixture(scope="module")
def actor():
    actor = Llama3(Config(), rngs=nnx.Rngs(0))
    add_lora(actor, alpha=ALPHA)
    whole = jax.NamedSharding(mesh_of(0, 1), jax.P())
    nnx.update(actor, jax.device_put(nnx.state(actor), whole))
    return actor


@pytest.fixture(scope="module")
def rollout(engine, actor):
    """Two instances of two devices each."""
    made = functools.partial(engine, lora_alpha=ALPHA, **OPTIONS)(
        rollout_actor=actor,
        tokenizer=Words(),
        mesh=MESH,
        rollout_config=CONFIG,
    )
    yield made
    made.close()


def check_logprobs(actor, output, *, temperature):
    for prompt, tokens, found in zip(
        output.left_padded_prompt_tokens, output.tokens, output.logprobs, strict=True
    ):
        ids = [int(token) for token in prompt if token]
        wanted = logps(actor, ids, tokens.tolist(), temperature=temperature)
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_it_is_an_engine_of_tunix(engine, rollout) -> None:
    assert issubclass(engine, standin.BaseRollout) and not engine.__abstractmethods__
    assert engine.__name__ == "MellRollout"
    assert (rollout.pad_id(), rollout.eos_id(), rollout.model()) == (0, 2, None)
    assert rollout.mesh == MESH
    assert len(rollout.llm.load().fleet.instances) == 2
    assert rollout.llm.info.max_model_len == 32


def test_answers_have_texts_tokens_and_log_probabilities(actor, rollout) -> None:
    output = rollout.generate(PROMPTS * 4, CONFIG)
    assert isinstance(output, standin.RolloutOutput) and output.logits is None
    assert output.left_padded_prompt_tokens[:3].tolist() == [
        [0, 0, 1, 5, 6, 7],
        [0, 0, 0, 0, 1, 9],
        [0, 1, 3, 4, 5, 6],
    ]
    ends = 0
    for text, tokens, logprobs in zip(
        output.text, output.tokens, output.logprobs, strict=True
    ):
        assert tokens.dtype == np.int32 and logprobs.dtype == np.float32
        assert tokens.shape == logprobs.shape and 1 <= len(tokens) <= 8
        said = tokens[:-1] if tokens[-1] == EOS else tokens
        ends += len(said) < len(tokens)
        assert Words().encode(text) == said.tolist()
    assert 0 < ends < 12  # both kinds were seen
    check_logprobs(actor, output, temperature=0.9)
    bare = rollout.generate(PROMPTS[:1], replace(CONFIG, return_logprobs=False))
    assert bare.logprobs is None


def test_a_seed_repeats_nothing(rollout) -> None:
    config = replace(CONFIG, seed=jax.random.key(1), eos_tokens=[])
    group = rollout.generate(["t5"] * 3, config).tokens
    single = [rollout.generate(["t5"], config).tokens[0] for _ in range(3)]
    assert len({tuple(tokens) for tokens in [*group, *single]}) == 6


def test_other_ends_and_other_parameters_count(rollout) -> None:
    config = replace(CONFIG, temperature=0.0, eos_tokens=[])
    (greedy,) = rollout.generate(["t5"], config).tokens
    assert len(greedy) == 8
    (cut,) = rollout.generate(
        ["t5"], replace(config, eos_tokens=[int(greedy[2])])
    ).tokens
    assert cut.tolist() == greedy[: greedy.tolist().index(greedy[2]) + 1].tolist()
    (short,) = rollout.generate(["t5"], config, max_tokens=1).tokens
    assert short.tolist() == greedy[:1].tolist()


def test_given_tokens_are_scored_at_the_temperature_of_the_rollout(
    actor, rollout
) -> None:
    prompts = jnp.array([[0, 0, 1, 5], [1, 3, 4, 7]])
    answers = jnp.array([[6, 7, 0], [0, 8, 9]])  # the last one's 0 is a token
    found = np.asarray(rollout.get_per_token_logps(prompts, answers))
    assert found.shape == (2, 3) and found[0, 2] == 0.0
    one = logps(actor, [1, 5], [6, 7], temperature=0.9)
    other = logps(actor, [1, 3, 4, 7], [0, 8, 9], temperature=0.9)
    np.testing.assert_allclose(found[0, :2], one, atol=1e-4)
    np.testing.assert_allclose(found[1], other, atol=1e-4)


def test_greedy_tokens_are_scored_by_the_model_itself(actor, rollout) -> None:
    config = rollout._config
    try:
        rollout._config = replace(config, temperature=0.0)
        found = rollout.get_per_token_logps(jnp.array([[1, 5]]), jnp.array([[6, 7]]))
    finally:
        rollout._config = config
    np.testing.assert_allclose(found[0], logps(actor, [1, 5], [6, 7]), atol=1e-4)


def test_single_prompts_of_many_threads_share_steps(actor, rollout) -> None:
    config = replace(CONFIG, eos_tokens=[])
    before, barrier = rollout.llm.load(), threading.Barrier(8)

    def ask(number):
        barrier.wait()
        return rollout.generate([PROMPTS[number % 3]], config)

    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(ask, range(8)))
    after = rollout.llm.load()
    assert after.generated_tokens - before.generated_tokens == 64
    assert after.steps - before.steps < 48
    for output in outputs:
        check_logprobs(actor, output, temperature=0.9)


def test_what_was_trained_is_served_and_nothing_compiles(actor, rollout) -> None:
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.append(event)
    )
    try:
        for step in range(3):
            trained = jax.tree.map(lambda x: 1.1 * x, nnx.state(actor, nnx.LoRAParam))
            nnx.update(actor, trained)
            del compiled[:]
            with (
                jax.transfer_guard_host_to_device("disallow_explicit"),
                jax.transfer_guard_device_to_host("disallow_explicit"),
            ):
                rollout.update_params(trained, (nnx.LoRAParam,))
            output = rollout.generate(PROMPTS, CONFIG)
            assert step == 0 or not [e for e in compiled if "backend_compile" in e]
            check_logprobs(actor, output, temperature=0.9)
            assert rollout.llm.weights_version == str(step + 1)
    finally:
        jax.monitoring.clear_event_listeners()


@pytest.mark.parametrize(
    ("size", "options", "wanted"),
    [
        (-1, {}, {"instances": 2, "tensor_parallel": 2, "device_ids": (2, 3, 4, 5)}),
        (1, {}, {"instances": 4, "tensor_parallel": 1, "device_ids": (2, 3, 4, 5)}),
        (4, {}, {"instances": 1, "tensor_parallel": 4, "device_ids": (2, 3, 4, 5)}),
        (-1, {"instances": 3}, {}),
    ],
)
def test_a_mesh_says_where_instances_are(size, options, wanted) -> None:
    config = replace(CONFIG, tensor_parallel_size=size)
    assert places(MESH, config, options) == wanted


def test_devices_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must divide the 4 devices .* got 3"):
        places(MESH, replace(CONFIG, tensor_parallel_size=3), {})


def test_a_trainer_on_the_same_devices_is_left_most_of_the_memory(actor) -> None:
    state = nnx.state(actor)
    apart = defaults(state, mesh=MESH, config=CONFIG)
    assert apart == {"dtype": "float32", "max_model_len": 32}
    half = replace(CONFIG, data_type=jnp.bfloat16, max_prompt_length=100)
    together = defaults(state, mesh=mesh_of(1, 2), config=half)
    assert together["kv_memory_fraction"] == 0.2
    assert (together["dtype"], together["max_model_len"]) == ("bfloat16", 109)


def test_tunix_is_imported_when_its_engine_is_asked_for() -> None:
    code = (
        "import sys, mell_jax.integrations.tunix as t, mell_jax.integrations;"
        "import mell_jax.integrations.tunix.rollout;"
        "assert not [m for m in sys.modules if m.partition('.')[0] == 'tunix'];"
        "sys.modules['tunix'] = None\n"
        "try: t.MellRollout\n"
        "except ImportError: pass\n"
        "else: raise SystemExit('it was not imported')\n"
        "assert not hasattr(t, 'Unheard')"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=120)
