"""Arrays of their owner are served as they are, or it is told why not."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from mell_jax.checkpoints import spec_in_memory
from mell_jax.engine.weights.plan import WeightsPlan
from mell_jax.engine.weights.shared import share_weights
from mell_jax.engine.weights.update import make_weights
from mell_jax.library.shared import shared_type
from mell_jax.models.serving_copy import serving_view
from mell_jax.worker.step import split_model
from tests.engine.weights.models import PLAIN, groups_of, make_decoder


def shared(module, *ids, dtype=jnp.float32):
    plan = WeightsPlan(
        serving_view(module),
        spec=spec_in_memory(module.config),
        form=PLAIN,
        groups=groups_of(*ids),
        is_shared=True,
    )
    _, weights = split_model(*nnx.split(module))
    return plan, share_weights(plan, weights, dtype=dtype)


def where(arrays) -> set[int]:
    return {array.unsafe_buffer_pointer() for array in arrays}


def theirs(module) -> set[int]:
    return where(jax.tree.leaves(nnx.state(module, nnx.Param)))


def test_the_first_group_has_the_owner_s_and_others_copies() -> None:
    module, other = make_decoder(0), make_decoder(1)
    plan, (first, same, second) = shared(module, [0], [0], [3])
    assert where(first) == where(same) == theirs(module)
    assert not where(second) & theirs(module)
    assert {d.id for array in second for d in array.devices()} == {3}
    assert all(array.committed for array in (*first, *second))
    made = make_weights(plan, other)
    assert where(a for _, a in made.parts(0)) == theirs(other)
    assert not where(a for _, a in made.parts(2)) & theirs(other)


def test_random_keys_are_copied_and_the_module_stays_as_it_is() -> None:
    module = make_decoder(0)
    module.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    _, ((*weights,),) = shared(module, [0])
    assert len(weights) == len(theirs(module)) + 2
    assert not module.dropout.deterministic
    module.dropout.rngs.count[...] += jnp.uint32(1)
    assert int(weights[0]) == 0


@pytest.mark.parametrize("ids", [[2], [0, 1]])
def test_what_lies_elsewhere_is_told(ids) -> None:
    with pytest.raises(ValueError, match=r"embed.embedding lies as .* needs .*mesh="):
        shared(make_decoder(0), ids)


def test_what_is_of_another_type_is_told() -> None:
    with pytest.raises(ValueError, match="is float32, and bfloat16 is served; say dty"):
        shared(make_decoder(0), [0], dtype=jnp.bfloat16)


def test_the_type_is_that_of_all_parameters() -> None:
    module = make_decoder(0, dtype=jnp.bfloat16)
    assert shared_type(module) == "bfloat16"
    module.norm.scale = nnx.Param(jnp.ones(16, jnp.float32))
    with pytest.raises(ValueError, match="all bfloat16, got bfloat16, float32"):
        shared_type(module)
    with pytest.raises(ValueError, match="got float16"):
        shared_type(make_decoder(0, dtype=jnp.float16))
