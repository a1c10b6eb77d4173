"""What does not fit is told, all of it, before anything is made."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from mell_jax.checkpoints.sources import Concatenate, Slice, Stack, Take, Transpose
from mell_jax.engine.weights.match import find_leaves
from mell_jax.engine.weights.tree import read_tree
from mell_jax.engine.weights.update import make_weights
from tests.engine.weights.models import (
    JOINED,
    PLAIN,
    built_weights,
    groups_of,
    make_decoder,
    plan_for,
    same,
)

OLD, NEW = make_decoder(0), make_decoder(1)
PLAN = plan_for(OLD, groups=groups_of([0]))
FLAT = {
    ".".join(map(str, path)): np.asarray(leaf.get_value())
    for path, leaf in nnx.to_flat_state(nnx.state(NEW))
}
NAMES = sorted(FLAT)


def expected() -> tuple[jax.Array, ...]:
    return built_weights(NEW, group=PLAN.groups[0])


def of_words(flat: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("layers", "blocks").upper(): a for name, a in flat.items()}


def word(name: str) -> str:
    return name.replace("layers", "blocks").upper()


@st.composite
def faults(draw: st.DrawFn) -> tuple[dict[str, Any], list[str]]:
    """A source with some mistakes, and what an error has to say of them."""
    source, said = dict(FLAT), []
    spoiled = draw(
        st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)
    )
    for name in spoiled:
        array = source[name]
        match draw(st.sampled_from(["missing", "renamed", "shape", "rank", "type"])):
            case "missing":
                del source[name]
                said.append(f"missing .*{re.escape(name)}")
            case "renamed":
                source[f"{name}x"] = source.pop(name)
                said += [f"missing .*{re.escape(name)}", f"not served .*{name}x"]
            case "shape":
                source[name] = np.concatenate([array, array])
                said.append(f"another shape .*{re.escape(name)}")
            case "rank":
                source[name] = array[None]
                said.append(f"another shape .*{re.escape(name)}")
            case "type":
                source[name] = array.astype(np.int32)
                said.append(f"of a type .*{re.escape(name)} int32")
    return source, said


@settings(max_examples=60)
@given(faults())
def test_every_mistake_is_told_and_nothing_is_made(spoiled):
    source, said = spoiled
    with pytest.raises(ValueError, match="nothing was changed") as error:
        make_weights(PLAN, source)
    for each in said:
        assert re.search(each, str(error.value)), (each, str(error.value))


@settings(max_examples=30)
@given(st.data())
def test_a_whole_source_is_taken_however_it_is_nested(data):
    """The control of the one above."""

    def nest(flat: dict[tuple[str, ...], Any], depth: int) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for path, array in flat.items():
            cut = data.draw(st.integers(1, len(path))) if depth < 2 else len(path)
            key: Any = path[0] if cut == 1 else path[:cut]
            if cut > 1 and data.draw(st.booleans()):
                key = ".".join(path[:cut])
            if cut == len(path):
                made[key] = array
            else:
                made.setdefault(key, {})[path[cut:]] = array
        return made

    few = data.draw(st.permutations(list(FLAT.items())))
    source = nest({tuple(name.split(".")): a for name, a in few}, 0)
    assert len(find_leaves(PLAN, read_tree(source))) == len(FLAT)


def test_a_long_list_is_cut():
    with pytest.raises(ValueError, match=r"20 are missing \(.*, .*, .*, and 17 more\)"):
        make_weights(PLAN, {name: FLAT[name] for name in NAMES[20:]})


MAPPINGS = {
    "dictionary": {name: word(name) for name in NAMES},
    "function": word,
    "of functions": {name: lambda tree, n=name: tree[word(n)] for name in NAMES},
    "of sources": lambda name: Take(word(name)),
    "some of each": lambda name: (
        word(name) if "mlp" in name else lambda tree: 1.0 * tree[word(name)]
    ),
}


@pytest.mark.parametrize("where", ["host", "devices"])
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_names_are_mapped(mapping, where):
    source = of_words(FLAT)
    if where == "devices":
        source = jax.tree.map(jnp.asarray, source)
    made = make_weights(PLAN, source, mapping=MAPPINGS[mapping])
    assert same(made, PLAN, 0, expected())


@pytest.mark.parametrize("where", ["host", "devices", "both"])
def test_scanned_layers_and_joined_maps_are_taken_apart(where):
    """By sources: one array for both layers, [2, out, in] of queries and keys."""
    source, mapping = dict(FLAT), {}
    for part in ("attention.o_proj.kernel", "mlp_norm.scale"):
        layers = [source.pop(f"layers.{n}.{part}") for n in range(2)]
        source[f"all.{part}"] = np.stack(layers, axis=-1)
        for n in range(2):
            mapping[f"layers.{n}.{part}"] = lambda tree, n=n, part=part: tree[
                f"all.{part}"
            ][..., n]
    for n in range(2):
        q, k = (f"layers.{n}.attention.{p}_proj.kernel" for p in "qk")
        joined = np.concatenate([source.pop(q), source.pop(k)], axis=1).T
        source[f"qk.{n}"] = joined
        mapping[q] = Transpose(Slice(Take(f"qk.{n}"), 0, 0, 128))
        mapping[k] = Transpose(Slice(Take(f"qk.{n}"), 0, 128, 192))
    for number, name in enumerate(source):
        if where == "devices" or (where == "both" and number % 2):
            source[name] = jnp.asarray(source[name])
    made = make_weights(PLAN, source, mapping=mapping)
    assert same(made, PLAN, 0, expected())


def test_adapters_are_added_by_a_mapping():
    module = make_decoder(1)
    random = np.random.default_rng(0)
    source = dict(FLAT)
    name = "layers.1.attention.q_proj"
    a, b = random.standard_normal((16, 2)), random.standard_normal((2, 128))
    source |= {f"{name}.lora_a": a, f"{name}.lora_b": b}
    source = {key: jnp.asarray(value, jnp.float32) for key, value in source.items()}
    with pytest.raises(ValueError, match="LoRA are not applied"):
        make_weights(PLAN, source)

    def merged(tree):
        return tree[f"{name}.kernel"] + tree[f"{name}.lora_a"] @ tree[f"{name}.lora_b"]

    made = make_weights(PLAN, source, mapping={f"{name}.kernel": merged})
    linear = module.layers[1].attention.q_proj
    linear.kernel[...] = jax.jit(lambda k, a, b: k + a @ b)(
        linear.kernel[...], source[f"{name}.lora_a"], source[f"{name}.lora_b"]
    )
    assert same(made, PLAN, 0, built_weights(module, group=PLAN.groups[0]))


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ("gpt2", "must be one of hf, maxtext, tunix, gemma"),
        ("maxtext", "none of MaxText's"),
        ({"layer.0": "x"}, "mapping names layer.0, but the served model has no such"),
        (7, "a layout's name, a dictionary or a function, got int"),
        ({NAMES[0]: 7}, "mapping says int for"),
        ({NAMES[0]: lambda tree: tree["nothing"]}, "missing .*nothing for"),
        ({NAMES[0]: lambda tree: tree[NAMES[0]][:1]}, "of another shape"),
        ({NAMES[0]: lambda tree: None}, "must return one array, got NoneType"),
        ({NAMES[0]: dict}, "must return one array, got dict"),
        ({NAMES[0]: Transpose(Stack((Take(NAMES[0]),)))}, "of another shape"),
        ({NAMES[0]: Concatenate((Take(NAMES[0]), Take("x")))}, "missing .*x for"),
    ],
)
def test_a_wrong_mapping_is_told(mapping, said):
    with pytest.raises((ValueError, TypeError), match=said):
        make_weights(PLAN, FLAT, mapping=mapping)


def test_what_a_mapping_raises_says_for_which_parameter():
    with pytest.raises(ZeroDivisionError) as raised:
        make_weights(PLAN, FLAT, mapping={NAMES[1]: lambda tree: 1 / 0})
    said = [note for note in raised.value.__notes__ if "mapping" in note]
    assert said == [f"while mapping made {NAMES[1]} of the new weights"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (3, "weights come from an nnx.State"),
        ({}, "21 are missing|missing"),
        ({NAMES[0]: 3.0}, "is a float; it must be an array"),
        ({"a": {"b": FLAT[NAMES[0]]}, "a.b": FLAT[NAMES[0]]}, "two arrays .* a.b"),
    ],
)
def test_what_is_no_source_is_told(source, said):
    with pytest.raises((ValueError, TypeError), match=said):
        make_weights(PLAN, source)


def test_donated_arrays_are_told():
    state = jax.tree.map(jnp.copy, nnx.state(NEW))
    next(iter(jax.tree.leaves(state))).delete()
    with pytest.raises(ValueError, match="was deleted or donated"):
        make_weights(PLAN, state)


class Dropping(nnx.Module):
    """Has what is no parameter: a key, a count, statistics."""

    def __init__(self, seed: int) -> None:
        self.inner = make_decoder(seed)
        self.config = self.inner.config
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(seed))
        self.mean = nnx.BatchStat(jnp.full(3, float(seed)))


def test_random_keys_are_kept_and_statistics_may_be():
    plan = plan_for(Dropping(0), groups=groups_of([0]), form=PLAIN)
    names = {
        n: plan.parameters[p.recipe.inputs[0]].name for n, p in enumerate(plan.places)
    }
    kept = {"dropout.rngs.count", "dropout.rngs.key"}

    def made(source: Any) -> set[str]:
        weights = make_weights(plan, source)
        found = {names[n] for n, _ in weights.parts(0)}
        assert {names[n] for n in weights.kept} == set(names.values()) - found
        return found

    whole = nnx.state(Dropping(1))
    assert made(whole) == set(names.values()) - kept
    assert made(nnx.state(Dropping(1), nnx.Param)) == set(names.values()) - kept - {
        "mean"
    }


def test_a_state_of_adapters_alone_changes_these_alone():
    def adapted(seed: int) -> Any:
        module = make_decoder(seed)
        module.layers[1].attention.q_proj = nnx.LoRALinear(
            16, 128, lora_rank=2, rngs=nnx.Rngs(seed)
        )
        return module

    plan = plan_for(adapted(0), groups=groups_of([0]))
    made = make_weights(plan, nnx.state(adapted(1), nnx.LoRAParam))
    names = ["".join(str(plan.places[n].path[-1])) for n, _ in made.parts(0)]
    assert sorted(names) == ["lora_a", "lora_b"]
    with pytest.raises(ValueError, match="missing"):
        make_weights(plan, nnx.to_pure_dict(nnx.state(adapted(1), nnx.LoRAParam)))


def test_half_of_a_joined_array_is_refused():
    """What is kept where it is missing may not be joined with what is given."""
    plan = plan_for(OLD, groups=groups_of([0]), form=JOINED)
    plan.parameters = tuple(
        dataclasses.replace(one, is_required="up_proj" not in one.name)
        for one in plan.parameters
    )
    few = {name: array for name, array in FLAT.items() if "up_proj" not in name}
    with pytest.raises(ValueError, match="served as one array"):
        make_weights(plan, few)
