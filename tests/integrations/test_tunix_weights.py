"""An actor's parameters become those of a decoder that computes what it does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mell_jax.integrations.tunix.agreement import LENGTH, find_like
from mell_jax.integrations.tunix.lora import Adapters
from mell_jax.integrations.tunix.models import configs_of
from mell_jax.integrations.tunix.weights import WeightMap, make_decoder, read_arrays
from mell_jax.models.attention import causal_attention
from mell_jax.models.uniform import uniform_config
from tests.integrations.standin import Config, Einsum, Llama3, add_lora, logps, noise

QKV = {"query": 4, "key": 2, "value": 2}  # heads
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]


def decoder_of(actor, weights=None, *, config=None, number=0):
    state = nnx.state(actor)
    config = configs_of(actor, context=LENGTH)[number] if config is None else config
    weights = WeightMap(actor, config=config) if weights is None else weights
    arrays = weights.parameters(state, dtype=np.float32)
    return make_decoder(config, arrays, dtype=np.float32)


def decoder_logps(decoder, tokens):
    graphdef, state = nnx.split(decoder)

    @jax.jit
    def ask(state, tokens):
        model = nnx.merge(graphdef, state)
        hidden, _ = model(tokens, jnp.arange(len(tokens)), None, causal_attention)
        return jax.nn.log_softmax(model.logits(hidden))

    found = ask(state, np.array(tokens))
    return [float(found[n, token]) for n, token in enumerate(tokens[1:])]


def check_alike(actor, decoder):
    found = decoder_logps(decoder, TOKENS)
    expected = logps(actor, TOKENS[:1], TOKENS[1:])  # down to -25, in float32
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=2e-6)


@settings(max_examples=4, phases=[Phase.generate])
@given(
    layers=st.integers(1, 2),
    heads=st.sampled_from([(2, 1), (4, 2), (3, 3)]),
    size=st.sampled_from([2, 8]),
    is_tied=st.booleans(),
)
def test_any_actor_is_mapped(layers, heads, size, is_tied) -> None:
    sizes = {"num_heads": heads[0], "num_kv_heads": heads[1], "head_dim": size}
    config = Config(num_layers=layers, weight_tying=is_tied, **sizes)
    actor = Llama3(config, rngs=nnx.Rngs(layers))
    check_alike(actor, decoder_of(actor))


def test_an_adapter_around_a_model_is_seen_through() -> None:
    class Around(nnx.Module):
        def __init__(self, base):
            self.base = base

    actor = Llama3(Config(), rngs=nnx.Rngs(0))
    config = configs_of(actor, context=LENGTH)[0]
    check_alike(actor, decoder_of(Around(actor), config=config))


class Node(nnx.Module):
    """Has the parameters of a nested dictionary."""

    def __init__(self, tree):
        for name, inner in tree.items():
            made = Node(inner) if isinstance(inner, dict) else nnx.Param(inner)
            setattr(self, name, made)


def test_layers_of_a_scan_are_taken_apart() -> None:
    """MaxText's have an axis of layers in the middle, and queries that are scaled."""
    sizes = {"vocab_size": 22, "hidden_size": 16, "intermediate_size": 24}
    sizes |= {"num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 4}
    config = uniform_config(max_position_embeddings=64, **sizes)
    rngs = nnx.Rngs(0)

    def new(*shape):
        return noise(rngs, *shape, size=1.0)

    heads = {name: {"kernel": new(16, 3, n, 4)} for name, n in QKV.items()}
    heads["out"] = {"kernel": new(4, 3, 4, 16)}
    maps = {name: {"kernel": new(16, 3, 24)} for name in ("wi_0", "wi_1")}
    maps["wo"] = {"kernel": new(24, 3, 16)}
    norms = ("pre_self_attention_layer_norm", "post_self_attention_layer_norm")
    layers = {name: {"scale": new(16, 3)} for name in norms}
    layers |= {"self_attention": heads, "mlp": maps}
    decoder = {"layers": layers, "decoder_norm": {"scale": new(16)}}
    decoder["logits_dense"] = {"kernel": new(16, 32)}
    tree = {"decoder": decoder, "token_embedder": {"embedding": new(32, 16)}}
    actor = Node({"base": tree})
    weights = WeightMap(actor, config=config)
    found = weights.parameters(nnx.state(actor), dtype=np.float32)
    for n in range(3):
        at = ("layers", n, "attention")
        wanted = heads["key"]["kernel"][:, n].reshape(16, 8)
        np.testing.assert_array_equal(found[*at, "k_proj", "kernel"], wanted)
        wanted = 2.0 * heads["query"]["kernel"][:, n].reshape(16, 16)
        np.testing.assert_allclose(found[*at, "q_proj", "kernel"], wanted, rtol=1e-6)
        wanted = maps["wo"]["kernel"][:, n]
        down = found["layers", n, "mlp", "down_proj", "kernel"]
        np.testing.assert_array_equal(down, wanted)
    assert found["embed", "embedding"].shape == (22, 16)
    assert found["lm_head", "kernel"].shape == (16, 22)


@pytest.mark.parametrize("times", [2, 4])
@pytest.mark.parametrize("has_bias", [False, True])
def test_kv_heads_are_repeated_where_more_are_served(times, has_bias) -> None:
    sizes = {"vocab_size": 22, "hidden_size": 16, "intermediate_size": 24}
    sizes |= {"num_layers": 1, "num_heads": 8, "head_dim": 8, "qkv_bias": has_bias}
    few = uniform_config(num_kv_heads=2, max_position_embeddings=64, **sizes)
    many = uniform_config(num_kv_heads=2 * times, max_position_embeddings=64, **sizes)
    actor = Llama3(Config(num_layers=1, num_heads=8), rngs=nnx.Rngs(0))
    if has_bias:
        attn, rngs = actor.layers[0].attn, nnx.Rngs(5)
        for kind, heads in (("q", 8), ("k", 2), ("v", 2)):
            bias = nnx.Param(noise(rngs, heads * 8, size=0.4))
            setattr(attn, f"{kind}_bias", bias)
    one = decoder_logps(decoder_of(actor, config=few), TOKENS)
    other = decoder_logps(decoder_of(actor, config=many), TOKENS)
    np.testing.assert_allclose(one, other, atol=1e-5)
    odd = dataclasses.replace(Config(num_layers=1, num_heads=8), num_kv_heads=3)
    actor.config = odd
    with pytest.raises(ValueError, match=r"multiple of the actor's \(3\)"):
        WeightMap(actor, config=many)


def test_pairs_of_lora_are_added_with_their_scale() -> None:
    actor = Llama3(Config(), rngs=nnx.Rngs(0))
    plain = decoder_logps(decoder_of(actor), TOKENS)
    config = configs_of(actor, context=LENGTH)[0]
    add_lora(actor, alpha=3.0)
    with pytest.raises(ValueError, match=r"8 pairs of LoRA, such as .*lora_alpha="):
        WeightMap(actor, config=config)
    weights = WeightMap(actor, config=config, lora_alpha=3.0)
    check_alike(actor, decoder_of(actor, weights))
    assert np.abs(np.subtract(plain, logps(actor, TOKENS[:1], TOKENS[1:]))).max() > 0.1
    twice = WeightMap(actor, config=config, lora_alpha=6.0)
    with pytest.raises(AssertionError):
        check_alike(actor, decoder_of(actor, twice))


def test_the_part_of_lora_alone_is_enough() -> None:
    actor = Llama3(Config(), rngs=nnx.Rngs(0))
    config = configs_of(actor, context=LENGTH)[0]
    add_lora(actor, alpha=3.0)
    weights = WeightMap(actor, config=config, lora_alpha=3.0)
    other = jax.tree.map(lambda x: 2.0 * x, nnx.state(actor, nnx.LoRAParam))
    found = weights.arrays_of(other)
    nnx.update(actor, other)
    wanted = weights.arrays_of(nnx.state(actor))
    assert found.keys() == wanted.keys() and not [n for n in found if "lora" in n]
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_pair_may_have_its_axes_in_another_order() -> None:
    """Gemma's weights are [N, D, H] and its pairs [D, r] and [r, N, H]."""

    class Model(nnx.Module):
        def __init__(self):
            self.q = Einsum("BTD,NDH->BTNH", (4, 4, 4), nnx.Rngs(0))

    model = Model()
    pair = noise(nnx.Rngs(1), 2, 2, 4, 4, size=1.0)
    a, b = pair[0, 0, :, :2], pair[1]
    model.q.w_lora_a, model.q.w_lora_b = nnx.LoRAParam(a), nnx.LoRAParam(b)
    model.q.w_lora_einsum_str, model.q.lora_scale = "BTD,Dr,rNH->BTNH", 1.5
    arrays = read_arrays(nnx.state(model))
    merged = Adapters.of(model, arrays, alpha=3.0).merge(arrays)
    x = jnp.eye(4)[None]
    wanted = model.q(x)
    np.testing.assert_allclose(
        jnp.einsum("BTD,NDH->BTNH", x, merged["q.w"]), wanted, atol=1e-6
    )


def test_nothing_passes_the_host_and_nothing_compiles_twice() -> None:
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    actor = Llama3(Config(), rngs=nnx.Rngs(0))
    add_lora(actor, alpha=3.0)
    cut = jax.NamedSharding(mesh, jax.P("fsdp"))
    nnx.update(actor, jax.device_put(nnx.state(actor), cut))
    config = configs_of(actor, context=LENGTH)[0]
    weights = WeightMap(actor, config=config, lora_alpha=3.0)
    states = [
        jax.tree.map(lambda x, by=by: by * x, nnx.state(actor, nnx.LoRAParam))
        for by in (1.0, 2.0, 3.0)
    ]
    weights.arrays_of(states[0])
    with (
        jax.transfer_guard_host_to_device("disallow_explicit"),
        jax.transfer_guard_device_to_host("disallow_explicit"),
        jax.log_compiles(),
        pytest.MonkeyPatch.context() as patch,
    ):
        compiled = []
        patch.setattr(jax.stages.Lowered, "compile", compiled.append)
        found = [weights.arrays_of(state) for state in states[1:]]
    assert not compiled
    one, other = (one["layers.0.attn.q_proj.w"] for one in found)
    assert one.sharding == cut and not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_layers": 3}, "no parameter layers.2.*another model's"),
        ({"num_layers": 1}, "arrays of Tunix have no place .*layers.1"),
        ({"hidden_size": 20}, r"shape \[22, 20\] cannot be made of Tunix's"),
        ({"tie_embeddings": True}, "1 arrays of Tunix have no place .*lm_head"),
    ],
)
def test_the_config_of_another_model_is_refused(changes, words) -> None:
    sizes = {"vocab_size": 22, "hidden_size": 16, "intermediate_size": 24}
    sizes |= {"num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
    config = uniform_config(max_position_embeddings=64, **(sizes | changes))
    with pytest.raises(ValueError, match=words):
        WeightMap(Llama3(Config(), rngs=nnx.Rngs(0)), config=config)


def test_names_of_nobody_are_refused() -> None:
    config = configs_of(Llama3(Config(), rngs=nnx.Rngs(0)), context=LENGTH)[0]
    with pytest.raises(ValueError, match="Linear have names that are not known"):
        WeightMap(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), config=config)


def test_a_quantised_weight_is_refused() -> None:
    actor = Llama3(Config(), rngs=nnx.Rngs(0))
    state = nnx.state(actor)
    state["lm_head"]["w"] = state["lm_head"]["w"].replace({"codes": 1})
    with pytest.raises(ValueError, match=r"lm_head.w is a dict: only plain arrays"):
        read_arrays(state)


# -- whether it computes the same ------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_what_the_actor_computes_tells_which_config_it_has(order) -> None:
    actor = Llama3(Config(), rngs=nnx.Rngs(0))
    decoders = [decoder_of(actor, number=number) for number in order]
    found = find_like(actor, decoders)
    assert found.config.layers[0].attention.rope.theta == 1e6


def test_an_actor_that_computes_something_else_is_refused() -> None:
    class Other(Llama3):
        def __call__(self, *given):
            logits, cache = super().__call__(*given)
            return logits.at[..., 7].multiply(1.01), cache

    actor = Other(Config(), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"Other computes other logits .* 0.00\d"):
        find_like(actor, [decoder_of(actor)])
