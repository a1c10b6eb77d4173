"""Training and serving in one loop: what is served is what was just trained."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from mell_jax import LLM, SamplingParams
from mell_jax.checkpoints import save_hf
from mell_jax.engine.admin import AskServing, ServingState
from mell_jax.engine.ask import ask
from mell_jax.frontend import RequestFailedError
from mell_jax.library.mesh import serving_options
from mell_jax.models.attention import causal_attention
from mell_jax.models.decoder import Decoder
from mell_jax.models.uniform import uniform_config
from mell_jax.worker.compilation import CompilationCounter
from mell_jax.worker.group import DeviceGroup
from tests.engine.weights.models import make_decoder as decoder_of

CONFIG = uniform_config(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_dim=32,
    max_position_embeddings=64,
    qkv_bias=True,
)
OPTIONS: dict[str, Any] = {
    "max_rows": 4,
    "decode_rows": (4,),
    "token_budget": 32,
    "max_model_len": 64,
    "kv_pages": 33,
}
PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3, 2, 1] * 2, [11]]
COUNT = 8
GREEDY = SamplingParams(temperature=0.0, max_tokens=COUNT)
LONG = SamplingParams(temperature=0.0, max_tokens=60)


@pytest.fixture(scope="module", autouse=True)
def kept_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Steps of these engines are mostly the same programs."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("programs")
        folder.chmod(0o700)
        patch.setitem(OPTIONS, "compilation_cache_dir", str(folder))
        yield


def make_decoder(seed: int) -> Decoder:
    return decoder_of(seed, config=CONFIG)


@jax.jit
def _next_tokens(graphdef: Any, state: Any, tokens: jax.Array) -> jax.Array:
    module: Decoder = nnx.merge(graphdef, state)
    positions = jnp.broadcast_to(jnp.arange(64), tokens.shape)
    hidden, _ = module(tokens, positions, None, causal_attention)
    return module.logits(hidden).argmax(axis=-1)


def by_itself(module: Decoder) -> list[tuple[int, ...]]:
    """What the module says greedily, computing everything anew for each token."""
    parts = nnx.split(module)
    rows = [list(prompt) for prompt in PROMPTS]
    for _ in range(COUNT):
        padded = np.array([row + [0] * (64 - len(row)) for row in rows])
        found = np.asarray(_next_tokens(*parts, padded))
        for row, tokens in zip(rows, found, strict=True):
            row.append(int(tokens[len(row) - 1]))
    return [tuple(row[-COUNT:]) for row in rows]


def said_by(llm: LLM) -> list[tuple[int, ...]]:
    return [output.token_ids for output in llm.generate(PROMPTS, GREEDY)]


class Trainer:
    """Plain Flax and optax; the step donates what it was given."""

    def __init__(self, module: Decoder) -> None:
        self.graphdef, self.state = nnx.split(jax.tree.map(jnp.copy, module))
        self.optimizer = optax.sgd(1.0)
        self.inner = jax.jit(self.optimizer.init)(self.state)
        self.tokens = jax.random.randint(jax.random.key(0), (2, 17), 0, 64)
        self._step = jax.jit(self._traced, donate_argnums=(0, 1))

    def _traced(self, state, inner, tokens):
        def loss(state):
            module = nnx.merge(self.graphdef, state)
            positions = jnp.broadcast_to(jnp.arange(16), (2, 16))
            hidden, _ = module(tokens[:, :-1], positions, None, causal_attention)
            logits = module.logits(hidden)
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, tokens[:, 1:]
            ).mean()

        changes, inner = self.optimizer.update(jax.grad(loss)(state), inner, state)
        return optax.apply_updates(state, changes), inner

    def step(self) -> Decoder:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            self.state, self.inner = self._step(self.state, self.inner, self.tokens)
        return nnx.merge(self.graphdef, self.state)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"instances": 2, "tensor_parallel": 2},
        pytest.param({"instances": 2}, marks=pytest.mark.slow),
        pytest.param({"tensor_parallel": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_optimizer_step_is_served_to_the_token(options) -> None:
    """While streams go on, under guards of transfers; nothing compiles after one."""
    trainer = Trainer(make_decoder(0))
    said = set()
    with LLM.from_nnx(trainer.step(), **OPTIONS, **options) as llm:
        counter = None
        for number in range(1, 11):
            stream = llm.stream(PROMPTS[0], LONG)
            next(stream)
            module = trainer.step()
            with (
                jax.transfer_guard_host_to_device("disallow_explicit"),
                jax.transfer_guard_device_to_host("disallow_explicit"),
            ):
                before = 0 if counter is None else counter.count
                updated = llm.update_weights(nnx.state(module, nnx.Param))
                assert counter is None or counter.count == before
                counter = counter or CompilationCounter()
            assert updated.version == llm.weights_version == str(number)
            served = said_by(llm)
            assert served == by_itself(module)
            said.add(served[1])
            assert len(list(stream)) > 0  # it goes on
    assert len(said) > 5  # the control: other weights say something else


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM.from_nnx(make_decoder(0), **OPTIONS) as llm:
        yield llm


def test_what_does_not_fit_changes_nothing(llm: LLM) -> None:
    llm.update_weights(make_decoder(1), version="one")
    before = said_by(llm)
    wrong = nnx.to_pure_dict(nnx.state(make_decoder(2)))
    wrong["norm"]["scale"] = jnp.ones(7)
    with pytest.raises(ValueError, match=r"norm.scale \[7\], served is \[32\]"):
        llm.update_weights(wrong)
    assert llm.weights_version == "one"
    assert said_by(llm) == before


def test_a_version_has_a_name(llm: LLM) -> None:
    with pytest.raises(ValueError, match="version must be 1 to"):
        llm.update_weights(make_decoder(1), version="")
    with pytest.raises(ValueError, match="version must be a text, got 7"):
        llm.update_weights(make_decoder(1), version=7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="open_requests must be one of keep"):
        llm.update_weights(make_decoder(1), open_requests="go")  # type: ignore[arg-type]


def test_streams_tell_which_weights_their_tokens_are_of(llm: LLM) -> None:
    llm.update_weights(make_decoder(1), version="one")
    stream = llm.stream(PROMPTS[0], LONG)
    deltas = [next(stream)]
    llm.update_weights(make_decoder(2), version="two", streamed=True)
    deltas += stream
    assert sum(len(delta.token_ids) for delta in deltas) == 60
    assert deltas[-1].finish is not None
    assert deltas[-1].finish.reason == "length"


def test_updates_of_many_threads_take_turns(llm: LLM) -> None:
    modules = [make_decoder(seed) for seed in range(4)]
    with ThreadPoolExecutor(8) as pool:
        going = [pool.submit(llm.generate, PROMPTS, GREEDY) for _ in range(4)]
        updates = [
            pool.submit(llm.update_weights, module, version=str(number))
            for number, module in enumerate(modules)
        ]
        assert sorted(one.result().version for one in updates) == list("0123")
        assert all(len(one.result()) == len(PROMPTS) for one in going)
    last = modules[int(llm.weights_version)]
    assert said_by(llm) == by_itself(last)


def test_a_directory_is_served_next(llm: LLM, tmp_path: Path) -> None:
    module = make_decoder(5)
    save_hf(tmp_path, decoder=module)
    for streamed in (False, True):
        llm.update_weights(make_decoder(0))
        llm.update_weights(tmp_path, streamed=streamed)
        assert said_by(llm) == by_itself(module)


@pytest.mark.parametrize("streamed", [False, True])
def test_weights_that_were_dropped_are_given_anew(streamed) -> None:
    """Dropouts' keys and counts, which no source has, are still there."""
    module = make_decoder(0)
    module.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    with LLM.from_nnx(module, **OPTIONS) as llm:
        expected = said_by(llm)
        assert llm.sleep(2, keeps="drop") > 100_000
        with pytest.raises(RuntimeError, match="give new ones by an update"):
            llm.wake()
        params = nnx.state(module, nnx.Param)
        llm.update_weights(params, streamed=streamed)
        llm.wake()
        assert said_by(llm) == expected


def test_an_update_meets_the_end(monkeypatch) -> None:
    """It waits for its turn when the engine ends."""
    module = make_decoder(0)
    llm = LLM.from_nnx(module, **OPTIONS)
    errors: list[Exception] = []
    with llm._weights._turn:  # somebody else's update

        def update() -> None:
            try:
                llm.update_weights(module)
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=update)
        thread.start()
        llm.close()
    thread.join()
    assert [str(error) for error in errors] == ["the engine has stopped"]
    with pytest.raises(RuntimeError, match="this LLM is closed"):
        llm.update_weights(module)
    with pytest.raises(RuntimeError, match="this LLM is closed"):
        _ = llm.weights_version


def test_an_interrupt_takes_an_update_back() -> None:
    class Interrupted(Future[Any]):
        def result(self, timeout: float | None = None) -> Any:
            raise KeyboardInterrupt

    asked: list[Future[Any]] = []

    class Engine:
        def ask(self, command: Any) -> Future[Any]:
            asked.append(Interrupted())
            return asked[-1]

    engine: Any = Engine()
    with pytest.raises(KeyboardInterrupt):
        ask(engine, AskServing(), ServingState)
    assert asked[0].cancelled()


# -- several, shared, on a mesh ------------------------------------------------------


def pointers(state: Any) -> set[int]:
    return {
        shard.data.unsafe_buffer_pointer()
        for array in jax.tree.leaves(state)
        for shard in array.addressable_shards
    }


def served_pointers(llm: LLM) -> set[int]:
    pool = llm._engine._engine.instance_pool
    return set().union(
        *(pointers(worker.held.arrays) for worker in pool.workers.values())
    )


def test_shared_arrays_are_served_without_a_copy() -> None:
    module, other = make_decoder(0), make_decoder(1)
    with LLM.from_nnx(module, share=True, **OPTIONS) as llm:
        assert served_pointers(llm) == pointers(nnx.state(module))
        assert said_by(llm) == by_itself(module)
        llm.update_weights(other)
        assert served_pointers(llm) == pointers(nnx.state(other))
        assert said_by(llm) == by_itself(other)
        for each in (module, other):  # nothing of theirs is written over
            llm.update_weights(each, streamed=True)
            assert served_pointers(llm) == pointers(nnx.state(each))
            assert said_by(llm) == by_itself(each)
        with pytest.raises(ValueError, match=r" is bfloat16, and float32 is served"):
            llm.update_weights(decoder_of(1, config=CONFIG, dtype=jnp.bfloat16))
        elsewhere = jax.device_put(nnx.state(other), jax.devices()[3])
        with pytest.raises(ValueError, match=r"share=True serves .* lies as .*id=3"):
            llm.update_weights(elsewhere)
        llm.update_weights(jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(other))))
        assert not served_pointers(llm) & pointers(nnx.state(other))


def test_streamed_weights_take_the_memory_of_those_before() -> None:
    first, second = make_decoder(1), make_decoder(2)
    with LLM.from_nnx(make_decoder(0), **OPTIONS) as llm:
        llm.update_weights(first, streamed=True)
        llm.sleep(2)  # and on the way back they get another
        llm.wake()
        before, compilations = served_pointers(llm), CompilationCounter()
        for module in (first, second):
            llm.update_weights(module, streamed=True)
            assert served_pointers(llm) == before
        assert compilations.count == 0
        assert said_by(llm) == by_itself(second)
        llm.update_weights(first)  # the control
        assert served_pointers(llm) != before


def test_shared_arrays_that_are_donated_fail_requests_until_others_are_given() -> None:
    trainer = Trainer(make_decoder(0))
    with LLM.from_nnx(trainer.step(), share=True, **OPTIONS) as llm:
        counter = CompilationCounter()
        for number in range(3):
            stream = llm.stream(PROMPTS[0], LONG)
            next(stream)
            module = trainer.step()  # which donates what is served
            with pytest.raises(RequestFailedError, match="were deleted by who shares"):
                list(stream)
            with pytest.raises(RequestFailedError, match="give others by an update"):
                said_by(llm)
            if number == 1:
                assert llm.sleep(2) > 0  # the pool
                with pytest.raises(RuntimeError, match="give new ones by an update"):
                    llm.wake()
            llm.update_weights(module)
            if number == 1:
                llm.wake()
            assert said_by(llm) == by_itself(module)
            assert llm.load().used_pages == llm.load().running == 0
        assert counter.count <= 1  # of the trainer


def test_what_is_not_shared_is_copied() -> None:
    """The control."""
    module = make_decoder(0)
    with LLM.from_nnx(module, **OPTIONS) as llm:
        assert not served_pointers(llm) & pointers(nnx.state(module))
        llm.update_weights(module)
        assert not served_pointers(llm) & pointers(nnx.state(module))


def test_a_module_cut_as_it_is_served_is_shared_by_all_instances() -> None:
    mesh = jax.make_mesh((2, 2), ("dp", "tp"), devices=jax.devices()[2:6])
    group = DeviceGroup.of_model(CONFIG, devices=jax.devices()[2:4])

    def put(path: tuple[Any, ...], variable: nnx.Variable[Any]) -> Any:
        array = variable.get_value()
        served: Any = group.weight_sharding(path, array.shape)
        spec = ["tp" if "tp" in (axes or ()) else None for axes in served.spec]
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return variable.replace(jax.device_put(array, sharding))

    module = make_decoder(1)
    flat = [
        (path, put(path, one)) for path, one in nnx.to_flat_state(nnx.state(module))
    ]
    nnx.update(module, nnx.from_flat_state(flat))
    with LLM.from_nnx(module, mesh=mesh, share=True, **OPTIONS) as llm:
        assert served_pointers(llm) == pointers(nnx.state(module))
        workers = llm._engine._engine.instance_pool.workers.values()
        groups = [[one.id for one in worker.group.devices] for worker in workers]
        assert groups == [[2, 3], [4, 5]]
        assert said_by(llm) == by_itself(make_decoder(1))


def test_several_are_served_in_one_process() -> None:
    modules = [make_decoder(0), make_decoder(1)]
    with LLM.from_nnx(modules[0], **OPTIONS) as one:
        other_options = {**OPTIONS, "device_ids": (1,)}
        with LLM.from_nnx(modules[1], **other_options) as other:
            one.update_weights(modules[1], version="b")
            other.update_weights(modules[0], version="a")
            with ThreadPoolExecutor(2) as threads:
                found = list(threads.map(said_by, (other, one)))
            assert (one.weights_version, other.weights_version) == ("b", "a")
    assert found == [by_itself(module) for module in modules]


@pytest.mark.parametrize(
    ("shape", "names", "instances", "ids"),
    [
        ((4,), ("tp",), 1, (0, 1, 2, 3)),
        ((4,), ("fsdp",), 4, (0, 1, 2, 3)),
        ((2, 2), ("fsdp", "tp"), 2, (0, 1, 2, 3)),
        ((2, 2), ("tensor", "fsdp"), 2, (0, 2, 1, 3)),
        ((2, 1, 2), ("data", "model", "x"), 4, (0, 1, 2, 3)),
    ],
)
def test_a_mesh_says_who_serves(shape, names, instances, ids) -> None:
    devices = np.array(jax.devices()[: len(ids)]).reshape(shape)
    assert serving_options(jax.sharding.Mesh(devices, names)) == {
        "instances": instances,
        "tensor_parallel": len(ids) // instances,
        "device_ids": ids,
    }


def test_an_unclear_mesh_is_told() -> None:
    mesh = jax.make_mesh((2, 2), ("tp", "model"))
    with pytest.raises(ValueError, match="one axis of the mesh is for tensor"):
        serving_options(mesh)
    mesh = jax.make_mesh((2,), ("tp",))
    with pytest.raises(ValueError, match="mesh= says instances; give one or the other"):
        LLM.from_nnx(make_decoder(0), mesh=mesh, instances=2, **OPTIONS)
