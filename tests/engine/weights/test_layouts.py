"""Trees of other programs in memory become what the same trees on disk become."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mell_jax.checkpoints.families import ARCHITECTURES
from mell_jax.engine.weights.plan import WeightsPlan
from mell_jax.engine.weights.update import make_weights
from mell_jax.models.decoder import Decoder
from mell_jax.models.rope import RopeConfig
from mell_jax.models.uniform import uniform_config
from tests.checkpoints import test_foreign_tree as trees
from tests.checkpoints.tiny import parsed
from tests.engine.weights.models import JOINED, built_weights, groups_of, same
from tests.parity.tiny_families import COMMON, TINY_FAMILIES, made_of_sources


def plan_of(spec, **options) -> WeightsPlan:
    decoder = nnx.eval_shape(lambda: Decoder(spec.config, rngs=nnx.Rngs(0)))
    groups = groups_of([0], config=spec.config)
    return WeightsPlan(decoder, spec=spec, form=JOINED, groups=groups, **options)


def on_devices(tree):
    return jax.tree.map(jnp.asarray, tree)


LLAMA_3_1 = {"rope": RopeConfig(scaling=trees.LLAMA_3_1)}
GEMMA = {"has_qk_norm": False, "after": "post_attention_norm"}
BIASES = {"qkv_bias": True}
TREES = {
    "maxtext": (LLAMA_3_1, lambda: trees.maxtext(axis=1)[0], trees.as_it_is),
    "tunix": (
        {"qkv_bias": True},
        lambda: trees.tunix(has_bias=True)[0],
        trees.as_it_is,
    ),
    "gemma": (None, lambda: trees.gemma(is_tunix=False, **GEMMA)[0], trees.flat),
}


@pytest.mark.parametrize("layout", TREES)
def test_a_tree_is_read_as_from_its_checkpoint(layout: str, tmp_path: Path) -> None:
    options, make, nested = TREES[layout]
    if options is None:
        config = trees.gemma_config()
    else:
        config = uniform_config(**trees.SIZES, **options)
    tree = nested(make())
    loaded = trees.load(trees.save(tmp_path, tree), config)
    decoder = nnx.merge(loaded.graphdef, loaded.state)
    spec = dataclasses.replace(loaded.spec, config=config)
    plan = plan_of(spec)
    expected = built_weights(decoder, group=plan.groups[0])
    for given in (tree, on_devices({"params": tree})):
        assert same(make_weights(plan, given, mapping=layout), plan, 0, expected)
        with pytest.raises(ValueError, match=f'try mapping="{layout}"'):
            make_weights(plan, given)


def tiny(name: str):
    family = next(one for one in TINY_FAMILIES if one.name == name)
    config = {**COMMON, "num_hidden_layers": 1, **family.config}
    return parsed(config), made_of_sources(config, seed=1)


@pytest.mark.parametrize("name", ["phi3", "gemma2", "glm4"])
def test_tensors_of_hugging_face_are_read(name: str) -> None:
    spec, tensors = tiny(name)
    plan = plan_of(spec)
    wanted = ARCHITECTURES[spec.architecture].weights(spec.config)
    names = {".".join(map(str, path)): source for path, source in wanted.items()}
    expected = make_weights(plan, tensors, mapping=names)  # each by itself
    for number, given in enumerate((tensors, on_devices(tensors))):
        prefix = ("language_model.model.", "model.")[number]
        inner = {key.replace("model.", prefix, 1): one for key, one in given.items()}
        if spec.config.tie_embeddings:
            inner["lm_head.weight"] = given["model.embed_tokens.weight"]
        inner[f"{prefix}layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4)
        made = make_weights(plan, inner, mapping="hf")
        parts = [array for _, array in sorted(expected.parts(0))]
        assert same(made, plan, 0, parts)
    with pytest.raises(ValueError, match='try mapping="hf"'):
        make_weights(plan, tensors)


def test_a_tensor_of_more_maps_is_refused() -> None:
    spec, tensors = tiny("phi3")
    name = "model.layers.0.self_attn.qkv_proj.weight"
    tensors[name] = np.concatenate([tensors[name]] * 2)
    with pytest.raises(ValueError, match=r"qkv_proj.weight .* has use for"):
        make_weights(plan_of(spec), tensors, mapping="hf")


def test_a_model_that_hugging_face_lacks_is_told() -> None:
    spec, tensors = tiny("phi3")
    spec = dataclasses.replace(spec, architecture="Decoder")
    with pytest.raises(ValueError, match="no model that Hugging Face has names for"):
        make_weights(plan_of(spec), tensors, mapping="hf")
