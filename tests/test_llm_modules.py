"""Modules that are no plain `Decoder` are served as they are, to the very token."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from mell_jax import LLM, SamplingParams, ServableModel
from mell_jax.models.attention import LayerAttention, causal_attention
from mell_jax.models.decoder import Decoder
from mell_jax.models.uniform import uniform_config
from mell_jax.worker.device import DeviceWorker

CONFIG = uniform_config(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=32,
    max_position_embeddings=64,
    has_qk_norm=True,
)
OPTIONS: dict[str, Any] = {
    "max_rows": 4,
    "decode_rows": (4,),
    "token_budget": 32,
    "max_model_len": 64,
    "kv_pages": 33,
}
PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3, 2, 1] * 2, [11]]
COUNT = 24
GREEDY = SamplingParams(temperature=0.0, max_tokens=COUNT)


@pytest.fixture(scope="module", autouse=True)
def kept_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The sampler's programs are the same for all of these modules."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("programs")
        folder.chmod(0o700)
        patch.setitem(OPTIONS, "compilation_cache_dir", str(folder))
        yield


def sharpen(module: nnx.Module) -> None:
    """Makes random parameters so large that every one of them counts."""
    keys = iter(jax.random.split(jax.random.key(1), 99))
    for _, parameter in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        parameter[...] = 0.5 * jax.random.normal(next(keys), parameter.shape)


def decoder(kind: type[Decoder] = Decoder) -> Decoder:
    module = kind(CONFIG, rngs=nnx.Rngs(3))
    sharpen(module)
    return module


def by_itself(module: ServableModel, prompt: list[int]) -> tuple[int, ...]:
    """What the module says greedily, computing everything anew for each token."""

    @nnx.jit
    def logits(module, tokens):
        hidden, _ = module(tokens, jnp.arange(64), None, causal_attention)
        return module.logits(hidden)

    tokens = list(prompt)
    for _ in range(COUNT):
        padded = jnp.array(tokens + [0] * (64 - len(tokens)))
        tokens.append(int(logits(module, padded)[len(tokens) - 1].argmax()))
    return tuple(tokens[len(prompt) :])


def served(module: ServableModel, **options: Any) -> list[tuple[int, ...]]:
    with LLM.from_nnx(module, **{**OPTIONS, **options}) as llm:
        assert llm.info.architecture in (type(module).__name__, "Qwen3ForCausalLM")
        return [output.token_ids for output in llm.generate(PROMPTS, GREEDY)]


class Backwards(Decoder):
    """Overrides what nothing in its state shows."""

    def logits(self, hidden):
        return -3.0 * jnp.tanh(super().logits(hidden) / 3.0)


class Bilinear(nnx.Module):
    """Has layers of its own, einsums over heads, and no rotary positions."""

    def __init__(self, rngs):
        self.config = CONFIG
        normal = nnx.initializers.normal(1.0)
        self.table = nnx.Param(normal(rngs(), (64, 8)))
        self.places = nnx.Variable(normal(rngs(), (64, 8)))
        self.maps = nnx.List(
            [
                nnx.Dict(
                    qkv=nnx.Einsum("td,dnh->tnh", (8, 4, 32), rngs=rngs),
                    out=nnx.LinearGeneral((2, 32), 8, axis=(-2, -1), rngs=rngs),
                )
                for _ in range(2)
            ]
        )

    def __call__(self, tokens, positions, cache, attend):
        x = self.table[...][tokens] + self.places[...][positions]
        for layer, maps in enumerate(self.maps):
            q, k, v = jnp.split(maps["qkv"](x), [2, 3], axis=1)
            cache, out = attend(
                cache, q, k, v, layer=LayerAttention(index=layer, scale=0.2)
            )
            x = x + maps["out"](out)
        return x, cache

    def logits(self, hidden):
        return hidden @ self.table[...].T


def plain() -> Decoder:
    return decoder()


def subclass() -> Decoder:
    return decoder(Backwards)


def narrowed() -> Decoder:
    module = decoder()
    attention = module.layers[0].attention
    attention.layer = dataclasses.replace(attention.layer, window=2)
    return module


def own_layers() -> nnx.Module:
    return Bilinear(nnx.Rngs(0))


def adapted() -> Decoder:
    """LoRA in place of a map that would be joined with others."""
    module = decoder()
    module.layers[1].attention.q_proj = nnx.LoRALinear(
        32, 64, lora_rank=2, use_bias=False, rngs=nnx.Rngs(0)
    )
    module.layers[0].mlp.down_proj = nnx.LoRALinear(
        48, 32, lora_rank=2, use_bias=False, rngs=nnx.Rngs(0)
    )
    sharpen(module)
    return module


def dropping() -> Decoder:
    module = decoder()
    module.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    return module


class Doubled(nnx.Module):
    """Takes the place of a part."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, x):
        return 2.0 * self.inner(x)


def with_own_part() -> Decoder:
    module = decoder()
    module.layers[1].mlp = Doubled(module.layers[1].mlp)
    return module


MODULES = (
    *(plain, subclass, narrowed, own_layers, adapted, with_own_part),
    dropping,
)


@pytest.mark.parametrize("make", MODULES)
def test_a_module_says_the_same_served_as_by_itself(make) -> None:
    module = make()
    assert served(module) == [by_itself(module, prompt) for prompt in PROMPTS]


def test_what_makes_these_modules_different_is_heard() -> None:
    """The control: each of those that began as one decoder says something else."""
    said = {make: by_itself(make(), PROMPTS[1]) for make in MODULES[:6]}
    assert len(set(said.values())) == len(said)


@pytest.mark.slow
@pytest.mark.parametrize("make", [subclass, own_layers, adapted])
def test_a_module_is_served_over_two_devices(make) -> None:
    module = make()
    expected = [by_itself(module, prompt) for prompt in PROMPTS]
    assert served(module, tensor_parallel=2, device_ids=(0, 1)) == expected


class Deaf(Bilinear):
    """Attends by itself, to its own step alone."""

    def __call__(self, tokens, positions, cache, attend):
        def own(cache, q, k, v, *, layer):
            cache, out = attend(cache, q, k, v, layer=layer)
            _, here = causal_attention(None, q, k, v, layer=layer)
            return cache, here + 0 * out

        return super().__call__(tokens, positions, cache, own)


class Counting(Bilinear):
    """Counts positions from the start of each step."""

    def __call__(self, tokens, positions, cache, attend):
        return super().__call__(tokens, jnp.arange(len(tokens)), cache, attend)


class Forgetful(Bilinear):
    """Hands on another cache than the one that came back."""

    def __call__(self, tokens, positions, cache, attend):
        def losing(kept, q, k, v, *, layer):
            after, out = attend(kept, q, k, v, layer=layer)
            return (after if layer.index == 1 else kept), out

        return super().__call__(tokens, positions, cache, losing)


class Swapped(Bilinear):
    """Numbers its layers by turns of a counter that a step leaves where it was."""

    def __call__(self, tokens, positions, cache, attend):
        is_odd = len(tokens) % 16 != 0

        def turned(kept, q, k, v, *, layer):
            other = dataclasses.replace(layer, index=layer.index ^ is_odd)
            return attend(kept, q, k, v, layer=other)

        return super().__call__(tokens, positions, cache, turned)


@pytest.mark.parametrize("kind", [Deaf, Counting, Forgetful, Swapped])
def test_a_wrong_adapter_is_loud(kind) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} computes other logits over"):
        LLM.from_nnx(kind(nnx.Rngs(0)), **OPTIONS)


def test_a_module_without_sizes_is_told_so() -> None:
    module = own_layers()
    del module.config
    with pytest.raises(TypeError, match=r"Bilinear is no ServableModel .* a .*ModelC"):
        LLM.from_nnx(module, **OPTIONS)


def test_a_wrong_head_size_is_told() -> None:
    module = own_layers()
    module.config = uniform_config(
        vocab_size=64,
        hidden_size=8,
        intermediate_size=8,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=64,
        max_position_embeddings=64,
    )
    with pytest.raises(ValueError, match=r"queries .* \[8, 2, 32\], but .* \[8, 2, 64"):
        LLM.from_nnx(module, **OPTIONS)


@pytest.mark.slow
def test_a_module_in_bfloat16_passes_its_check() -> None:
    assert served(subclass(), dtype="bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("limit", [{"kv_pages": 5}, {"max_rows": 1}, {"tokens": 2}])
def test_small_engines_check_what_they_can(limit) -> None:
    tokens = limit.pop("tokens", 64)
    options = {"max_model_len": tokens, "decode_rows": (), **limit}
    with LLM.from_nnx(own_layers(), **{**OPTIONS, **options}) as llm:
        short = SamplingParams(temperature=0.0, max_tokens=1)
        (output,) = llm.generate([[11]], short)
        assert output.token_ids == by_itself(own_layers(), [11])[:1]


def test_a_plain_decoder_needs_no_check(monkeypatch) -> None:
    steps = []
    original = DeviceWorker.forward

    def count(worker, vector, *, bucket):
        steps.append(int((vector > 0).sum()))
        return original(worker, vector, bucket=bucket)

    monkeypatch.setattr(DeviceWorker, "forward", count)
    found = []
    for make in (plain, subclass, with_own_part):
        steps.clear()
        LLM.from_nnx(make(), **OPTIONS).close()
        found.append(len(steps) - found[0] if found else len(steps))
    assert found[1:] == [3, 3]
