"""Tunix, Google's trainer in JAX, rolls out by an `LLM`: python tunix_checks.py

It is used as it is installed, on four devices of a CPU: two that train, two that serve.
Tiny models of Tunix' own code have random weights; what they say themselves, by Tunix'
own functions, is what every answer is held against.
"""

import contextlib
import functools
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
import optax
import qwix
from flax import nnx
from tunix.models.gemma import model as gemma
from tunix.models.gemma3 import model as gemma3
from tunix.models.llama3 import model as llama3
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen3 import model as qwen3
from tunix.rl import common, rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout.base_rollout import BaseRollout, RolloutConfig, RolloutOutput
from tunix.tests.test_common import MockVocab

from mell_jax.integrations.tunix import MellRollout

MeshOf = Callable[[list[Any]], jax.sharding.Mesh]
ROLE = rl_cluster.Role
STEPS = 3
RATIO_ERROR = 1e-4  # of log probabilities
PROMPTS = ["hello world", "input string !", "Hello there ! My name is Morgane", "PT"]
SIZES = {
    "num_layers": 2,
    "embed_dim": 32,
    "hidden_dim": 48,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
}
CONFIG = RolloutConfig(
    max_tokens_to_generate=12,
    temperature=0.8,
    max_prompt_length=8,
    kv_cache_size=64,
    return_logprobs=True,
)
COUNTING: list[tuple[int, list[str]]] = []
OPTIONS: dict[str, Any] = {"max_rows": 8, "token_budget": 64, "kv_pages": 65}


class Watched(MellRollout):
    """A rollout that is held against the weights that it was given last."""

    def __init__(self, **options: Any) -> None:
        self.actor = options["rollout_actor"]
        self.weights = _copied(nnx.state(self.actor))
        self.errors: list[float] = []
        self.versions: list[str] = []
        self.compiled: list[int] = []
        super().__init__(**options)

    def generate(self, prompts: Any, rollout_config: Any, **kwargs: Any) -> Any:
        with counted_compilations() as counted:
            output = super().generate(prompts, rollout_config, **kwargs)
        self.compiled.append(len(counted))
        self.versions.append(self.llm.weights_version)
        self.errors.append(logprob_error(self, output, config=rollout_config))
        return output

    def update_params(self, params: Any, filter_types: Any = None) -> None:
        with counted_compilations() as counted:
            super().update_params(params, filter_types)
        self.compiled.append(len(counted))
        self.weights = _copied(nnx.state(self.actor))


def check_models() -> None:
    """Raises for a model of Tunix that is not served as it computes."""
    dense = {"vocab_size": 22, "norm_eps": 1e-6}
    capped = {
        "use_post_attn_norm": True,
        "use_post_ffw_norm": True,
        "final_logit_softcap": 30.0,
        "attn_logits_soft_cap": 50.0,
        "sliding_window_size": 64,  # a shorter one's place depends on padding there
        "attention_types": (
            gemma.AttentionType.LOCAL_SLIDING,
            gemma.AttentionType.GLOBAL,
        ),
    }
    window = {
        "sliding_window_size": 4,
        "global_base_frequency": 1_000_000,
        "global_scale_factor": 8.0,
        "param_dtype": jnp.float32,
        "num_layers": 7,
    }
    for kind, config, options in (
        (llama3.Llama3, llama3.ModelConfig, dense | {"rope_theta": 500_000}),
        (qwen2.Qwen2, qwen2.ModelConfig, dense | {"rope_theta": 10_000}),
        (qwen3.Qwen3, qwen3.ModelConfig, dense | {"rope_theta": 5_000_000}),
        (gemma.Gemma, gemma.ModelConfig, {"num_embed": 22} | capped),
        (gemma3.Gemma3, gemma3.ModelConfig, {"num_embed": 22} | window),
    ):
        actor = made(kind(config(**(SIZES | options)), rngs=nnx.Rngs(0)))
        cluster = make_cluster(Watched, actor=actor)
        cluster.generate(PROMPTS)
        assert max(cluster.rollout.errors) < RATIO_ERROR, cluster.rollout.errors
        cluster.rollout.close()
        print(f"  {kind.__name__} is served as it computes")


def check_engine_class() -> None:
    """Raises what is wrong with it as Tunix' engine, of a class and of a partial."""
    for engine, rows in (
        (functools.partial(MellRollout, **(OPTIONS | {"max_rows": 4})), 4),
        (MellRollout, 64),
    ):
        cluster = make_cluster(engine)
        rollout = cluster.rollout
        assert isinstance(rollout, BaseRollout), type(rollout).__mro__
        assert cluster.r2m[ROLE.ROLLOUT] == rollout.mesh == meshes()[1]
        served = {d for array in live_arrays(rollout) for d in array.devices()}
        assert served == set(jax.devices()[2:]), served
        assert (rollout.pad_id(), rollout.eos_id()) == (0, 2)
        assert rollout.llm.info.max_rows == rows
        check_output(cluster.generate(PROMPTS), count=len(PROMPTS))
        check_output(cluster.generate(PROMPTS, micro_batch_size=2), count=4)
        rollout.close()


def check_output(output: RolloutOutput, *, count: int) -> None:
    """Raises what Tunix' learners would stumble over."""
    assert len(output.text) == len(output.tokens) == count
    assert output.left_padded_prompt_tokens.shape == (count, CONFIG.max_prompt_length)
    assert output.left_padded_prompt_tokens[0].tolist() == [0] * 5 + [1, 5, 6]
    for tokens, logprobs in zip(output.tokens, output.logprobs, strict=True):
        assert 1 <= len(tokens) <= CONFIG.max_tokens_to_generate
        assert tokens.shape == logprobs.shape and logprobs.dtype == np.float32
        assert (logprobs <= 0).all() and 2 not in tokens[:-1]


def check_scores() -> None:
    """Raises if scores of given tokens are not the actor's."""
    cluster = make_cluster(Watched)
    output = cluster.generate(PROMPTS)
    ids, answers = padded(output)
    scores = cluster.get_old_per_token_logps(jnp.array(ids), jnp.array(answers))
    wanted = actor_logps(cluster.rollout, ids, answers, temperature=0.8)
    error = np.abs(np.asarray(scores) - wanted)[before_padding(answers)].max()
    assert error < RATIO_ERROR, error
    cluster.rollout.close()


def check_threads() -> None:
    """Raises if single prompts of many threads do not share steps."""
    rollout = make_cluster(Watched).rollout
    config = replace(CONFIG, eos_tokens=[])
    before = rollout.llm.load()
    barrier = threading.Barrier(8)

    def ask(number: int) -> Any:
        barrier.wait()
        return rollout.generate([PROMPTS[number % len(PROMPTS)]], config)

    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(ask, range(8)))
    after = rollout.llm.load()
    steps, tokens = (
        after.steps - before.steps,
        after.generated_tokens - before.generated_tokens,
    )
    assert all(len(output.tokens[0]) == 12 for output in outputs)
    assert tokens == 8 * 12 and steps < tokens / 2, (steps, tokens)
    assert len({tuple(output.tokens[0]) for output in outputs}) == 8
    assert max(rollout.errors) < RATIO_ERROR
    rollout.close()
    print(f"  {tokens} tokens of 8 threads came in {steps} steps")


def check_grpo(*, lora: bool = False, together: bool = False) -> None:
    """Raises if a step of GRPO was not on policy, changed nothing, or compiled."""
    actor = made(tiny(), lora=lora)
    engine = functools.partial(
        Watched, lora_alpha=4.0 if lora else None, streamed=together, **OPTIONS
    )
    cluster = make_cluster(engine, actor=actor, together=together)
    rollout = cluster.rollout
    learner = grpo_learner.GRPOLearner(
        rl_cluster=cluster,
        reward_fns=lambda prompts, completions, **_: [
            float(text.count("Tunix")) for text in completions
        ],
        algo_config=grpo_learner.GRPOConfig(num_generations=4, num_iterations=1),
    )
    assert learner.should_sync_weights
    before = _copied(nnx.state(actor))
    learner.train([{"prompts": np.array(PROMPTS[:2])}] * STEPS)
    assert max(rollout.errors) < RATIO_ERROR, rollout.errors
    cluster.generate(PROMPTS)  # with what was trained last
    assert rollout.errors[-1] < RATIO_ERROR, rollout.errors
    assert rollout.versions[-1] == str(STEPS), rollout.versions
    assert len(set(rollout.versions)) == STEPS + 1, rollout.versions
    # Answers and update of each step in turn; those of the first may.
    assert len(rollout.compiled) == 2 * STEPS + 1, rollout.compiled
    assert sum(rollout.compiled[2:]) == 0, rollout.compiled
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), before, rollout.weights)
    assert max(map(float, jax.tree.leaves(moved))) > 1e-3, moved
    rollout.close()
    kind = "with LoRA" if lora else "on the same devices" if together else ""
    print(f"  {STEPS} steps of GRPO {kind}, off by {max(rollout.errors):.1e} at most")


def make_cluster(
    engine: Any, *, actor: Any = None, together: bool = False
) -> rl_cluster.RLCluster:
    """Returns a cluster whose actor and rollout have two devices each."""
    trains, serves = meshes()
    if isinstance(engine, type):
        engine = functools.partial(engine, **OPTIONS) if engine is Watched else engine
    return rl_cluster.RLCluster(
        actor=made(tiny()) if actor is None else actor,
        reference=tiny(),
        tokenizer=MockVocab(),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh={
                ROLE.ACTOR: trains,
                ROLE.REFERENCE: trains,
                ROLE.ROLLOUT: trains if together else serves,
            },
            rollout_engine=engine,
            offload_to_cpu=False,
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optax.sgd(0.3),
                eval_every_n_steps=100,
                max_steps=STEPS,
            ),
            rollout_config=CONFIG,
        ),
    )


def meshes() -> tuple[jax.sharding.Mesh, jax.sharding.Mesh]:
    """Returns the mesh that trains and the one that serves."""
    devices = np.array(jax.devices())
    names = ("fsdp", "tp")
    return (
        jax.sharding.Mesh(devices[:2].reshape(2, 1), names),
        jax.sharding.Mesh(devices[2:].reshape(1, 2), names),
    )


def tiny() -> Any:
    """Returns a tiny Llama of Tunix with its own random weights."""
    config = llama3.ModelConfig(
        vocab_size=22, norm_eps=1e-6, rope_theta=500_000, **SIZES
    )
    return llama3.Llama3(config, rngs=nnx.Rngs(0))


def made(model: Any, *, lora: bool = False) -> Any:
    """Returns a model with weights that all count, and pairs of LoRA on some."""
    keys = iter(jax.random.split(jax.random.key(1), 999))
    for path, parameter in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        noise = 0.3 * jax.random.normal(next(keys), parameter.shape)
        is_norm = parameter.ndim == 1 and path[-1] == "w"
        parameter[...] = (noise + is_norm).astype(parameter.dtype)
    if not lora:
        return model
    provider = qwix.LoraProvider(
        module_path=".*q_proj|.*o_proj|.*gate_proj|.*down_proj", rank=2, alpha=4.0
    )
    return qwix.apply_lora_to_model(
        model, provider, rngs=nnx.Rngs(7), **model.get_model_input()
    )


def logprob_error(rollout: Watched, output: Any, *, config: Any) -> float:
    """Returns how far log probabilities are from those of the weights given last."""
    ids, answers = padded(output)
    wanted = actor_logps(rollout, ids, answers, temperature=config.temperature)
    found = np.zeros(answers.shape, np.float32)
    for row, logprobs in zip(found, output.logprobs, strict=True):
        row[: len(logprobs)] = logprobs
    return float(np.abs(found - wanted)[before_padding(answers)].max(initial=0.0))


def before_padding(answers: Any) -> Any:
    """Returns which tokens come before the first of the padding's id in their row."""
    return np.logical_and.accumulate(answers != 0, axis=1)


def padded(output: Any) -> tuple[Any, Any]:
    """Returns prompts padded on the left and answers padded on the right."""
    answers = np.zeros((len(output.tokens), CONFIG.max_tokens_to_generate), np.int32)
    for row, tokens in zip(answers, output.tokens, strict=True):
        row[: len(tokens)] = tokens
    return output.left_padded_prompt_tokens, answers


def actor_logps(rollout: Watched, ids: Any, answers: Any, *, temperature: float) -> Any:
    """Returns what Tunix computes with the weights that were given last.

    Its function takes a token of the padding's id for padding, and none attends to it.
    """
    graphdef, _ = nnx.split(rollout.actor)
    return np.asarray(
        common.compute_per_token_logps(
            graphdef,
            rollout.weights,
            prompt_tokens=jnp.array(ids),
            completion_tokens=jnp.array(answers),
            pad_id=0,
            eos_id=2,
            temperature=temperature,
        )
    )


@contextlib.contextmanager
def counted_compilations() -> Iterator[list[str]]:
    """Yields a list of what is compiled on this thread and the engine's meanwhile."""
    mine: tuple[int, list[str]] = (threading.get_ident(), [])
    COUNTING.append(mine)
    yield mine[1]
    COUNTING.remove(mine)


def hear(event: str, _: float, **__: Any) -> None:
    """Is told by JAX of everything that takes time."""
    here = threading.current_thread()
    for ident, found in list(COUNTING):
        is_meant = here.ident == ident or here.name.startswith("mell")
        if is_meant and "backend_compile" in event:
            found.append(event)


def live_arrays(rollout: Any) -> Iterator[Any]:
    """Yields the arrays of the serving mesh that are alive."""
    return (a for a in jax.live_arrays() if not a.devices() & set(jax.devices()[:2]))


def _copied(state: Any) -> Any:
    return jax.tree.map(jnp.copy, state)


if __name__ == "__main__":
    folder = tempfile.TemporaryDirectory(prefix="mell-tunix-")  # of mode 0700
    OPTIONS["compilation_cache_dir"] = folder.name
    jax.monitoring.register_event_duration_secs_listener(hear)
    check_engine_class()
    print("it is an engine of Tunix, as a class and as a partial")
    check_models()
    print("models of Tunix are served as they compute")
    check_scores()
    check_threads()
    print("single prompts of many threads share steps")
    check_grpo()
    check_grpo(together=True)
    check_grpo(lora=True)
    print("GRPO is on policy in every step, and nothing compiles after the first")
