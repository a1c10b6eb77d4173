import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mell_jax.models.serving_form import ServingForm
from mell_jax.worker.form import choose_form, parse_features
from mell_jax.worker.group import DeviceGroup


@pytest.mark.parametrize(
    ("cpu", "is_turned"),
    [
        ({"avx2", "fma"}, True),
        ({"avx2", "avx512f"}, False),
        ({"asimd"}, False),
        (set(), False),
    ],
    ids=["avx2", "avx512", "arm", "unknown"],
)
def test_matrices_are_turned_where_that_is_faster(
    cpu: set[str], is_turned: bool
) -> None:
    group = DeviceGroup(devices=(jax.devices("cpu")[0],))
    form = choose_form(group, dtype=np.float32, cpu=frozenset(cpu))
    assert form == ServingForm(is_joined=True, is_turned=is_turned)


def test_bfloat16_is_turned_with_avx512_too() -> None:
    group = DeviceGroup(devices=(jax.devices("cpu")[0],))
    cpu = frozenset({"avx2", "avx512f", "avx512_bf16"})
    assert choose_form(group, dtype=jnp.bfloat16, cpu=cpu).is_turned


def test_weights_that_are_cut_keep_their_form() -> None:
    group = DeviceGroup(devices=tuple(jax.devices("cpu")[:2]))
    assert (
        choose_form(group, dtype=np.float32, cpu=frozenset({"avx2"})) == ServingForm()
    )


def test_features_are_those_that_all_cpus_have() -> None:
    text = "flags\t\t: fpu avx2 fma\nbugs\t:\n\nflags\t\t: fpu avx2\n"
    assert parse_features(text) == {"fpu", "avx2"}
    assert parse_features("Features\t: fp asimd bf16") == {"fp", "asimd", "bf16"}
    assert parse_features("processor: 0\n") == frozenset()
