"""What is packed here and dequantised there differs by half a step at most."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mell_jax.checkpoints.quantised.affine import Affine, dequantise, runs
from mell_jax.checkpoints.quantised.awq import Awq
from mell_jax.checkpoints.quantised.compressed_tensors import (
    CompressedTensors,
    Strategy,
)
from mell_jax.checkpoints.quantised.fp8 import (
    Fp8,
    dequantise_blocks,
    dequantise_channels,
)
from mell_jax.checkpoints.quantised.gptq import Gptq
from mell_jax.checkpoints.quantised.mxfp4 import Mxfp4
from tests.checkpoints.quantised import packing

BITS = st.sampled_from([2, 4, 8])


def matrix(rows, columns, *, seed=0, offset=0.0):
    random = np.random.default_rng(seed)
    values = random.standard_normal((rows, columns)) + offset
    return values.astype(np.float32)


def gptq(bits, group_size=32, *, has_low_zeros=True, is_symmetric=False):
    return Gptq(
        bits=bits,
        group_size=group_size,
        has_low_zeros=has_low_zeros,
        is_symmetric=is_symmetric,
    )


def is_exact(found, dense, made, order):
    """Whether values are what was packed, and within half a step of what that was of.

    The lowest and the highest code stand for all that lies beyond them.
    """
    step = made.scales.astype(np.float64)[:, order]
    np.testing.assert_array_equal(
        found, ((made.codes - made.zeros[:, order]) * step).astype(np.float32)
    )
    is_inside = (made.codes > 0) & (made.codes < made.codes.max())
    error = np.abs(found.astype(np.float64) - dense)[is_inside]
    assert (error <= 0.5 * step[is_inside] * 1.0001).all()


@settings(max_examples=30)
@given(
    options=st.fixed_dictionaries(
        {"bits": BITS, "is_symmetric": st.booleans(), "group": st.just(32)}
    ),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    is_v2=st.booleans(),
    is_ordered=st.booleans(),
    seed=st.integers(0, 99),
)
def test_gptq_is_right_to_half_a_step(options, shape, is_v2, is_ordered, seed):
    rows, columns = 16 * shape[0], 32 * shape[1]
    offset = 0.0 if options["is_symmetric"] else 0.5
    dense = matrix(rows, columns, seed=seed, offset=offset)
    order = np.arange(columns) // 32
    if is_ordered:
        order = np.random.default_rng(seed).permutation(order)
    parts = packing.gptq(dense, **options, is_v2=is_v2, order=order)
    layout = gptq(
        options["bits"],
        has_low_zeros=not is_v2,
        is_symmetric=options["is_symmetric"],
    )
    assert layout.dense_shape({k: v.shape for k, v in parts.items()}) == dense.shape
    found = layout.dequantise(parts, dtype=np.float32)
    is_exact(found, dense, packing.rounded(dense, **options, order=order), order)


def test_gptq_without_g_idx_has_groups_in_order():
    dense = matrix(16, 96)
    parts = packing.gptq(dense, bits=4, group=32, is_symmetric=True)
    layout = gptq(4)
    whole = layout.dequantise(parts, dtype=np.float32)
    del parts["g_idx"]
    np.testing.assert_array_equal(layout.dequantise(parts, dtype=np.float32), whole)


def test_gptq_may_have_one_group_and_a_shorter_last_one():
    dense = matrix(16, 96)
    whole = packing.gptq(dense, bits=4, group=96, is_symmetric=False)
    found = gptq(4, None).dequantise(whole, dtype=np.float32)
    assert np.abs(found - dense).max() < 0.3
    short = packing.gptq(dense, bits=8, group=64, is_symmetric=False)
    assert short["scales"].shape == (2, 16)
    found = gptq(8, 64).dequantise(short, dtype=np.float32)
    assert np.abs(found - dense).max() < 0.02


def test_zero_points_of_the_other_format_are_noticed_where_they_are_known():
    parts = packing.gptq(matrix(16, 32), bits=4, group=32, is_symmetric=True)
    v2 = gptq(4, has_low_zeros=False, is_symmetric=True)
    with pytest.raises(
        ValueError, match="zero points from 7 to 7, but sym is true, wh"
    ):
        v2.dequantise(parts, dtype=np.float32)


def test_a_zero_point_of_zero_borrows_from_its_neighbour():
    """Stored one too small, 0 is 15 and takes one of the next: 8 becomes 6, not 7."""
    parts = {
        "qweight": np.zeros((1, 8), np.int32),
        "qzeros": np.array([[0x7777776F]], np.int32),
        "scales": np.ones((1, 8), np.float16),
    }
    layout = gptq(4, 8)
    found = layout.dequantise(parts, dtype=np.float32)
    assert (-found[:, 0]).tolist() == [0, 8, 8, 8, 8, 8, 8, 8]


@settings(max_examples=30)
@given(rows=st.integers(1, 9), groups=st.integers(1, 4), seed=st.integers(0, 99))
def test_awq_is_right_to_half_a_step(rows, groups, seed):
    dense = matrix(8 * rows, 16 * groups, seed=seed, offset=0.3)
    parts = packing.awq(dense, group=16)
    layout = Awq(group_size=16)
    assert layout.dense_shape({k: v.shape for k, v in parts.items()}) == dense.shape
    found = layout.dequantise(parts, dtype=np.float32)
    made = packing.rounded(dense, bits=4, group=16, is_symmetric=False)
    is_exact(found, dense, made, np.arange(16 * groups) // 16)


@settings(max_examples=30)
@given(
    bits=BITS,
    rows=st.integers(1, 40),
    groups=st.integers(1, 4),
    is_symmetric=st.booleans(),
    seed=st.integers(0, 99),
)
def test_packed_weights_are_right_to_half_a_step(
    bits, rows, groups, is_symmetric, seed
):
    dense = matrix(rows, 24 * groups, seed=seed)
    options = {"bits": bits, "group": 24, "is_symmetric": is_symmetric}
    parts = packing.compressed_packed(dense, **options)
    layout = CompressedTensors(
        bits=bits,
        is_float=False,
        is_packed=True,
        strategy=Strategy.GROUP,
        group_size=24,
    )
    assert layout.dense_shape({k: v.shape for k, v in parts.items()}) == dense.shape
    found = layout.dequantise(parts, dtype=np.float32)
    made = packing.rounded(dense, **options)
    is_exact(found, dense, made, np.arange(24 * groups) // 24)


@pytest.mark.parametrize("strategy", [Strategy.TENSOR, Strategy.CHANNEL])
@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize("is_packed", [True, False])
def test_scales_of_channels_and_tensors_are_right(strategy, is_symmetric, is_packed):
    dense = matrix(24, 64)
    if strategy is Strategy.TENSOR:
        dense = dense.reshape(1, -1)
    if is_packed:
        parts = packing.compressed_packed(
            dense, bits=8, group=dense.size, is_symmetric=is_symmetric
        )
    else:
        parts = packing.compressed_whole(
            dense, group=dense.size, is_symmetric=is_symmetric
        )
    if strategy is Strategy.TENSOR:  # as one matrix of 24 rows again
        dense = dense.reshape(24, 64)
        key = "weight_packed" if is_packed else "weight"
        parts[key] = parts[key].reshape(24, -1)
        parts["weight_scale"] = parts["weight_scale"].reshape(-1)
        if is_packed:
            parts["weight_shape"] = np.array([24, 64])
        if is_packed and not is_symmetric:  # which only groups and channels pack
            zero = (parts["weight_zero_point"] & 255).astype(np.int64) - 128
            parts["weight_zero_point"] = zero.astype(np.int8).reshape(-1)
    layout = CompressedTensors(
        bits=8, is_float=False, is_packed=is_packed, strategy=strategy
    )
    found = layout.dequantise(parts, dtype=np.float32)
    assert np.abs(found - dense).max() < 0.03


def test_columns_may_be_of_groups_in_any_order():
    order = np.array([1, 0, 1, 1, 0, 0, 1, 0])
    parts = {
        "weight": np.arange(16, dtype=np.int8).reshape(2, 8),
        "weight_scale": np.array([[1, 10], [2, 20]], np.float32),
        "weight_g_idx": order.astype(np.int32),
    }
    layout = CompressedTensors(
        bits=8, is_float=False, is_packed=False, strategy=Strategy.GROUP, group_size=4
    )
    found = layout.dequantise(parts, dtype=np.float32)
    assert found[0].tolist() == [0, 1, 20, 30, 4, 5, 60, 7]
    parts["weight_g_idx"] = np.full(8, -1, np.int32)  # stands for: in no other order
    found = layout.dequantise(parts, dtype=np.float32)
    assert found[1].tolist() == [16, 18, 20, 22, 240, 260, 280, 300]


@settings(max_examples=30)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    block=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    seed=st.integers(0, 99),
)
def test_fp8_blocks_are_right_to_half_a_step(rows, columns, block, seed):
    dense = matrix(rows, columns, seed=seed)
    parts = packing.fp8_blocks(dense, block=block)
    found = Fp8(block=block).dequantise(parts, dtype=np.float32)
    # Three bits of mantissa: half a step is a 16th; subnormals are 2 ** -9 apart.
    smallest = parts["weight_scale_inv"].max() * 2.0**-10
    assert (np.abs(found - dense) <= np.abs(dense) / 16 * 1.001 + smallest).all()


def test_fp8_scales_may_be_powers_of_two_in_bytes():
    values = np.array([[1, 2], [3, 4]], packing.FP8)
    for scale in (
        np.array([[128, 126]], np.uint8),
        np.array([[2, 0.5]], ml_dtypes.float8_e8m0fnu),
    ):
        found = dequantise_blocks(values, scale, block=(2, 1))
        assert found.tolist() == [[2, 1], [6, 2]]


@pytest.mark.parametrize("kind", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_every_byte_of_fp8_is_read_as_its_type_says(kind):
    octets = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = dequantise_channels(octets.view(kind), np.array(1.0, np.float32))
    np.testing.assert_array_equal(found, octets.view(kind).astype(np.float32))


def test_nan_stays_nan_and_touches_nothing_else():
    values = np.array([[np.nan, 448.0], [1.0, -2.0]], packing.FP8)
    found = dequantise_channels(values, np.array([[2.0], [4.0]], np.float32))
    assert np.isnan(found[0, 0])
    assert found.ravel()[1:].tolist() == [896, 4, -8]


def test_a_scale_for_each_channel_or_one_for_all():
    values = np.array([[1, 2], [3, 4]], packing.FP8)
    for scale in ([2, 10], [[2], [10]]):
        found = dequantise_channels(values, np.array(scale, np.float16))
        assert found.tolist() == [[2, 4], [30, 40]]
    for scale in (2, [2], [[2]]):
        found = dequantise_channels(values, np.array(scale, np.float32))
        assert found.tolist() == [[2, 4], [6, 8]]


def test_mxfp4_has_two_values_in_a_byte_and_a_power_of_two_for_each_32():
    blocks = np.zeros((1, 1, 2, 16), np.uint8)
    blocks[0, 0, 0, :8] = [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]
    blocks[0, 0, 1, 15] = 0xF1
    scales = np.array([[[128, 126]]], np.uint8)
    found = Mxfp4().dequantise({"_blocks": blocks, "_scales": scales}, dtype=np.float32)
    assert found.shape == (1, 64, 1)
    table = [0, 1, 2, 3, 4, 6, 8, 12]
    assert found[0, :16, 0].tolist() == table + [-value for value in table]
    assert found[0, 62:, 0].tolist() == [0.25, -3.0]
    assert not found[0, 16:62].any()


def test_a_slab_at_a_time_is_the_same_as_all_at_once(monkeypatch):
    dense = matrix(40, 64)
    parts = packing.awq(dense, group=32)
    whole = Awq(group_size=32).dequantise(parts, dtype=ml_dtypes.bfloat16)
    monkeypatch.setattr("mell_jax.checkpoints.quantised.affine.SLAB_VALUES", 64 * 12)
    slabs = Awq(group_size=32).dequantise(parts, dtype=ml_dtypes.bfloat16)
    assert slabs.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(slabs, whole)


def test_values_are_rounded_once():
    """3 * bfloat16(1/3) is 1.001953125, of which float16 keeps all bits."""
    found = dequantise(
        Affine(
            shape=(1, 1),
            codes=lambda rows: np.full((1, 1), 3, np.float32),
            scales=np.array([[0.333984375]], np.float32),
        ),
        dtype=np.float16,
    )
    assert found.item() == 1.001953125


def test_a_value_too_large_for_float16_is_refused():
    values = np.array([[448.0]], packing.FP8)
    scale = np.array(1000.0, np.float32)
    with pytest.raises(ValueError, match="too large for float16; load it as bfloat16"):
        dequantise_channels(values, scale, dtype=np.float16)
    with pytest.raises(ValueError, match="too large for float32"):
        dequantise_channels(values, np.array(1e37, np.float32))


def ones(*shape, dtype=np.int32):
    return np.ones(shape, dtype)


F16 = np.float16
AFFINE = {"shape": (2, 4), "codes": lambda rows: ones(2, 4), "scales": ones(2, 2)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (0, 4)}, "a matrix of shape [0, 4] has no values"),
        ({"scales": ones(3, 2)}, "scales of shape [3, 2] do not fit 2 rows"),
        ({"scales": ones(2)}, "scales of shape [2] do not fit 2 rows"),
        ({"scales": ones(2, 3)}, "4 columns are not 3 equal groups"),
        ({"scales": ones(2, 0)}, "4 columns are not 0 equal groups"),
        ({"zeros": ones(2, 1)}, "zero points of shape [2, 1] do not fit scales of"),
        ({"groups": ones(3)}, "groups of shape [3] do not fit 4 columns"),
        ({"groups": np.array([0, 1, 2, 0])}, "groups from 0 to 2 are outside the 2"),
        ({"groups": np.array([0, -1, 0, 0])}, "groups from -1 to 0 are outside the 2"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError) as error:
        Affine(**(AFFINE | changes))
    assert message in str(error.value)


GPTQ = gptq(4, 8)
GPTQ_PARTS = {
    "qweight": ones(2, 8),
    "qzeros": ones(2, 1),
    "scales": ones(2, 8, dtype=F16),
}
AWQ_PARTS = {
    "qweight": ones(16, 1),
    "qzeros": ones(2, 1),
    "scales": ones(2, 8, dtype=F16),
}
PACKED = CompressedTensors(
    bits=4, is_float=False, is_packed=True, strategy=Strategy.GROUP, group_size=8
)
PACKED_PARTS = {
    "weight_packed": ones(8, 2),
    "weight_scale": ones(8, 2, dtype=F16),
    "weight_shape": np.array([8, 16]),
    "weight_zero_point": ones(1, 2),
}
WHOLE_PARTS = {
    "weight": ones(8, 16, dtype=np.int8),
    "weight_scale": ones(8, 2, dtype=F16),
}
WHOLE = CompressedTensors(
    bits=8, is_float=False, is_packed=False, strategy=Strategy.GROUP, group_size=8
)
FP8_PARTS = {
    "weight": ones(4, 6, dtype=packing.FP8),
    "weight_scale_inv": ones(2, 3, dtype=np.float32),
}
MXFP4_PARTS = {
    "_blocks": ones(2, 4, 3, 16, dtype=np.uint8),
    "_scales": ones(2, 4, 3, dtype=np.uint8),
}
FORMATS = [
    (GPTQ, GPTQ_PARTS),
    (Awq(group_size=8), AWQ_PARTS),
    (PACKED, PACKED_PARTS),
    (WHOLE, WHOLE_PARTS),
    (Fp8(block=(2, 2)), FP8_PARTS),
    (Mxfp4(), MXFP4_PARTS),
]


def varied(part, random):
    """The same type and shape, other values."""
    octets = random.integers(1, 120, part.nbytes, dtype=np.uint8)
    if part.dtype.kind == "f" and part.dtype.itemsize > 1:
        return random.random(part.shape).astype(part.dtype)
    return octets.view(part.dtype).reshape(part.shape)


@pytest.mark.parametrize(("layout", "parts"), FORMATS)
def test_some_rows_are_those_of_the_whole(layout, parts):
    random = np.random.default_rng(0)
    parts = {
        name: part if name == "weight_shape" else varied(part, random)
        for name, part in parts.items()
    }
    whole = layout.dequantise(parts, dtype=np.float32)
    assert len(np.unique(whole)) > 2
    count = len(whole)
    for rows in (slice(0, 1), slice(1, count), slice(count - 1, None), slice(None)):
        found = layout.dequantise(parts, dtype=np.float32, rows=rows)
        np.testing.assert_array_equal(found, whole[rows])


@pytest.mark.parametrize(("layout", "parts"), FORMATS)
def test_parts_that_fit_are_read(layout, parts):
    """The control of the next test."""
    shape = layout.dense_shape({name: part.shape for name, part in parts.items()})
    assert layout.dequantise(parts, dtype=np.float32).shape == shape


@pytest.mark.parametrize(
    ("layout", "parts", "changes", "message"),
    [
        (GPTQ, GPTQ_PARTS, {"qweight": ones(16)}, "expected two dimensions, found"),
        (GPTQ, GPTQ_PARTS, {"qweight": ones(2, 8, dtype=F16)}, "must be 32-bit"),
        (GPTQ, GPTQ_PARTS, {"qweight": ones(3, 8)}, "24 inputs in groups of 8 need 3"),
        (GPTQ, GPTQ_PARTS, {"scales": ones(2, 9, dtype=F16)}, "do not fit 8 rows"),
        (GPTQ, GPTQ_PARTS, {"scales": ones(8, dtype=F16)}, "expected two dimensions"),
        (GPTQ, GPTQ_PARTS, {"scales": ones(2, 8)}, "must be floating point, found int"),
        (GPTQ, GPTQ_PARTS, {"qzeros": ones(1, 1)}, "zero points of shape [8, 1]"),
        (GPTQ, GPTQ_PARTS, {"qzeros": ones(1)}, "found uint32 [1]"),
        (GPTQ, GPTQ_PARTS, {"g_idx": ones(4)}, "groups of shape [4] do not fit 16"),
        (GPTQ, GPTQ_PARTS, {"g_idx": 2 * ones(16)}, "groups from 2 to 2 are outside"),
        (GPTQ, GPTQ_PARTS, {"g_idx": ones(16, dtype=F16)}, "g_idx of float16"),
        (Awq(group_size=8), AWQ_PARTS, {"qweight": ones(8)}, "expected two dimensions"),
        (Awq(group_size=8), AWQ_PARTS, {"qweight": ones(15, 1)}, "in groups of 8 need"),
        (Awq(group_size=8), AWQ_PARTS, {"qzeros": ones(2, 2)}, "zero points of shape"),
        (Awq(group_size=8), AWQ_PARTS, {"scales": ones(2, dtype=F16)}, "expected two"),
        (
            PACKED,
            PACKED_PARTS,
            {"weight_shape": np.array([8, 15])},
            "a weight_shape of",
        ),
        (
            PACKED,
            PACKED_PARTS,
            {"weight_shape": np.array(8)},
            "has a weight_shape of [8]",
        ),
        (PACKED, PACKED_PARTS, {"weight_packed": ones(8, 3)}, "has 3 words in a row"),
        (
            PACKED,
            PACKED_PARTS,
            {"weight_packed": ones(7, 2)},
            "a weight_shape of [8, 16",
        ),
        (PACKED, PACKED_PARTS, {"weight_scale": ones(2)}, "expected two dimensions"),
        (PACKED, PACKED_PARTS, {"weight_zero_point": ones(8)}, "found int32 [8]"),
        (
            PACKED,
            PACKED_PARTS,
            {"weight_zero_point": ones(1, 3)},
            "zero points of shape",
        ),
        (PACKED, PACKED_PARTS, {"weight_zero_point": ones(1, dtype=F16)}, "of float16"),
        (WHOLE, WHOLE_PARTS, {"weight": ones(8, 16, dtype=F16)}, "int8, found float16"),
        (WHOLE, WHOLE_PARTS, {"weight": ones(8, dtype=np.int8)}, "two dimensions"),
        (WHOLE, WHOLE_PARTS, {"weight_scale": ones(8, 3, dtype=F16)}, "need scales of"),
        (WHOLE, WHOLE_PARTS, {"weight_g_idx": ones(16, dtype=F16)}, "no integers"),
        (Fp8(), FP8_PARTS, {}, "expected one scale or one for each of 4 rows"),
        (Fp8(block=(3, 3)), FP8_PARTS, {}, "need scales of shape [2, 2], found [2, 3]"),
        (
            Fp8(block=(2, 2)),
            FP8_PARTS,
            {"weight": ones(4, 6)},
            "of float8, found int32",
        ),
        (Fp8(), FP8_PARTS, {"weight": ones(4, dtype=packing.FP8)}, "two dimensions"),
        (Mxfp4(), MXFP4_PARTS, {"_blocks": ones(2, 4, 3, 16)}, "of bytes, found int32"),
        (Mxfp4(), MXFP4_PARTS, {"_blocks": ones(3, 8, dtype=np.uint8)}, "of 16 bytes"),
        (Mxfp4(), MXFP4_PARTS, {"_scales": ones(3, dtype=np.uint8)}, "but scales of"),
        (Mxfp4(), MXFP4_PARTS, {"_scales": ones(dtype=np.uint8)}, "but scales of sha"),
        (Mxfp4(), MXFP4_PARTS, {"_blocks": ones(dtype=np.uint8)}, "found the shape []"),
        (Mxfp4(), MXFP4_PARTS, {"_blocks": np.ones((0, 1, 16), np.uint8)}, "of 16 byt"),
    ],
)
def test_hostile_parts_are_refused(layout, parts, changes, message):
    with pytest.raises(ValueError) as error:
        layout.dequantise(parts | changes, dtype=np.float32, rows=slice(0, 1))
    assert message in str(error.value)


SHAPES = st.lists(st.integers(0, 17), max_size=4)
OPTIONAL = ("g_idx", "weight_g_idx", "weight_zero_point")
TYPES = st.sampled_from([np.int32, np.uint8, np.int8, np.int64, F16, packing.FP8])


@settings(max_examples=300)
@given(st.data())
def test_no_parts_do_anything_but_raise_a_value_error(data):
    layout, parts = data.draw(st.sampled_from(FORMATS))
    changed = data.draw(
        st.sets(st.sampled_from(sorted({*parts, *OPTIONAL})), min_size=1)
    )
    hostile = {
        name: ones(*data.draw(SHAPES), dtype=data.draw(TYPES)) for name in changed
    }
    parts = parts | hostile
    try:
        shape = layout.dense_shape({name: part.shape for name, part in parts.items()})
        found = layout.dequantise(parts, dtype=np.float32)
    except ValueError as error:
        assert len(str(error)) < 300
        assert "broadcast" not in str(error)  # ours, not numpy's
    else:
        assert found.shape == shape


def test_a_block_larger_than_any_matrix_allocates_nothing():
    parts = {
        "weight": ones(4, 6, dtype=packing.FP8),
        "weight_scale_inv": 3 * ones(1, 1, dtype=np.float32),
    }
    found = Fp8(block=(1 << 30, 1 << 30)).dequantise(parts, dtype=np.float32)
    assert (found == 3).all()


def test_memory_for_a_weight_is_its_result_and_a_few_megabytes(monkeypatch):
    dense = matrix(64, 64)
    parts = {
        name: np.tile(part, (32, 32) if part.ndim > 1 else 32)
        for name, part in packing.awq(dense, group=32).items()
    }  # 2,048 by 2,048

    def peak_bytes():
        tracemalloc.start()
        Awq(group_size=32).dequantise(parts, dtype=np.float32)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak  # without the result, which is mapped

    assert peak_bytes() < 8 << 20
    monkeypatch.setattr("mell_jax.checkpoints.quantised.affine.SLAB_VALUES", 1 << 30)
    assert peak_bytes() > 16 << 20  # the control: at once


def test_runs_of_columns_may_end_short():
    assert runs(4, 2) is None
    assert runs(5, 2).tolist() == [0, 0, 1, 1, 2]
