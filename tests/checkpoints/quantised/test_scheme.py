"""Which weights are quantised, and what a file that cannot be read is told."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mell_jax.checkpoints import CheckpointError
from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.quantised import (
    cost_line,
    is_unused,
    is_zero_bias,
    read_scheme,
    unused_line,
)
from mell_jax.checkpoints.quantised.awq import Awq
from mell_jax.checkpoints.quantised.compressed_tensors import (
    CompressedTensors,
    Strategy,
)
from mell_jax.checkpoints.quantised.fp8 import Fp8
from mell_jax.checkpoints.quantised.gptq import Gptq
from mell_jax.checkpoints.quantised.mxfp4 import Mxfp4
from mell_jax.checkpoints.quantised.read import METHODS

LAYER = "model.layers.0."
Q_PROJ = LAYER + "self_attn.q_proj"


@pytest.fixture
def scheme_of(tmp_path):
    """A function from `quantization_config` to a scheme."""

    def read(values, *, key="quantization_config"):
        fields = Fields({key: values}, "config.json")
        return read_scheme(fields, directory=tmp_path)

    return read


def layout_of(scheme):
    (rule,) = scheme.rules
    return rule.layout


def weights(**options):
    """One group of compressed-tensors for all linear maps."""
    defaults = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
    values = {k: v for k, v in (defaults | options).items() if v is not None}
    return {"targets": ["Linear"], "weights": values}


def compressed(*groups, **options):
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {f"group_{i}": group for i, group in enumerate(groups)},
        "ignore": ["lm_head"],
        **options,
    }


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def test_a_model_without_a_configuration_is_not_quantised(tmp_path):
    assert read_scheme(Fields({}, "config.json"), directory=tmp_path) is None


@pytest.mark.parametrize(
    ("values", "layout"),
    [
        (FP8, Fp8(block=(128, 128))),
        ({"quant_method": "fp8", "activation_scheme": "static"}, Fp8()),
        ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, Fp8()),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, Fp8()),
        (
            {"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"},
            Fp8(),
        ),
        (GPTQ, Gptq(bits=4, group_size=128, has_low_zeros=True, is_symmetric=False)),
        (
            GPTQ | {"checkpoint_format": "gptq_v2", "bits": 8, "group_size": -1},
            Gptq(bits=8, group_size=None, has_low_zeros=False, is_symmetric=False),
        ),
        (
            GPTQ | {"format": "gptq_v2", "dynamic": {"-:.*lm_head": {}}, "bits": 2},
            Gptq(bits=2, group_size=128, has_low_zeros=False, is_symmetric=False),
        ),
        (AWQ, Awq(group_size=128)),
        (AWQ | {"version": "GEMM", "group_size": -1}, Awq(group_size=None)),
        ({"quant_method": "mxfp4"}, Mxfp4()),
        (
            compressed(weights()),
            CompressedTensors(
                bits=4,
                is_float=False,
                is_packed=True,
                strategy=Strategy.GROUP,
                group_size=32,
            ),
        ),
        (
            compressed(
                weights(num_bits=8, strategy="channel", group_size=None),
                format="int-quantized",
            ),
            CompressedTensors(
                bits=8, is_float=False, is_packed=False, strategy=Strategy.CHANNEL
            ),
        ),
        (
            compressed(
                weights(num_bits=4, strategy=None, group_size=None),
                format="naive-quantized",
            ),
            CompressedTensors(
                bits=8, is_float=False, is_packed=False, strategy=Strategy.TENSOR
            ),
        ),
        (
            compressed(
                weights(num_bits=8, type="float", strategy="block", group_size=None)
                | {"format": "float-quantized"}
                | {"output_activations": None},
                format="mixed-precision",
            ),
            "must have a block",
        ),
    ],
)
def test_each_method_is_read(scheme_of, values, layout):
    if isinstance(layout, str):
        with pytest.raises(CheckpointError, match="block_structure is missing"):
            scheme_of(values)
    else:
        assert layout_of(scheme_of(values)) == layout


@pytest.mark.parametrize(
    ("group_size", "strategy"),
    [(None, Strategy.TENSOR), (-1, Strategy.CHANNEL), (32, Strategy.GROUP)],
)
def test_a_strategy_follows_from_the_size_of_groups(scheme_of, group_size, strategy):
    group = weights(strategy=None, group_size=group_size)
    layout = layout_of(scheme_of(compressed(group)))
    assert layout.strategy is strategy
    assert layout.group_size == (32 if strategy is Strategy.GROUP else 1)


def test_blocks_of_compressed_tensors_are_a_list_or_text(scheme_of):
    for block in ([64, 128], "64x128"):
        group = weights(
            num_bits=8,
            type="float",
            strategy="block",
            group_size=None,
            block_structure=block,
        )
        layout = layout_of(scheme_of(compressed(group, format="float-quantized")))
        assert layout.block == (64, 128)
        assert layout.strategy is Strategy.BLOCK


def test_older_keys_and_files_are_found(scheme_of, tmp_path):
    old = compressed(weights())
    del old["quant_method"]
    assert layout_of(scheme_of(old, key="compression_config")).bits == 4
    nested = {"quantization_config": old, "sparsity_config": {"format": "dense"}}
    assert layout_of(scheme_of(nested, key="compression_config")).bits == 4
    for name, values, layout in (
        (
            "quantize_config.json",
            {"bits": 8, "group_size": 64, "desc_act": False, "sym": True},
            Gptq(bits=8, group_size=64, has_low_zeros=True, is_symmetric=True),
        ),
        (
            "quant_config.json",
            {"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMM"},
            Awq(group_size=64),
        ),
        (
            "hf_quant_config.json",
            {"producer": {}, "quantization": {"quant_algo": "FP8"}},
            Fp8(),
        ),
    ):
        path = tmp_path / name
        path.write_text(json.dumps(values))
        scheme = read_scheme(Fields({}, "config.json"), directory=tmp_path)
        assert layout_of(scheme) == layout
        assert scheme.where.startswith(str(path))
        path.unlink()


def test_dense_formats_have_no_rules(scheme_of):
    dense = compressed(weights(), format="dense", quantization_status="frozen")
    assert scheme_of(dense).rules == ()
    keys_alone = {"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}
    assert scheme_of(keys_alone).rules == ()
    no_weights = compressed({"targets": ["Linear"], "input_activations": {}})
    assert scheme_of(no_weights).parts(Q_PROJ + ".weight", {Q_PROJ + ".weight"}) == ()


WAY_OUT = "use the unquantised weights"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "found bitsandbytes; load it with"),
        ({"load_in_4bit": True}, "found bitsandbytes; load it with transformers"),
        ({"group_size": 64, "bits": 4}, "found mlx; make it dense with mlx_lm"),
        ({"quant_method": "exl2", "bits": 4.0}, f"found exl2; {WAY_OUT}"),
        ({"quant_method": "hqq"}, f"found hqq; {WAY_OUT}"),
        ({"quant_method": "aqlm"}, f"found aqlm; {WAY_OUT}"),
        ({"quant_method": 4}, "quant_method must be a string"),
        ({}, "quant_method is missing"),
        (GPTQ | {"bits": 3}, "bits must be one of 2, 4, 8, found 3"),
        (GPTQ | {"bits": 10**4_000}, "of 2, 4, 8, found 10000000000000000000; use"),
        (GPTQ | {"group_size": 0}, "must be positive, or -1 for all inputs, found 0"),
        (GPTQ | {"group_size": 10**4_000}, "for all inputs, found 1000000000"),
        (GPTQ | {"checkpoint_format": "marlin"}, "must be gptq or gptq_v2, found ma"),
        (GPTQ | {"is_marlin_format": True}, "is_marlin_format must be false"),
        (GPTQ | {"pack_dtype": "int16"}, "pack_dtype must be int32, found int16"),
        (GPTQ | {"rotation": "hadamard"}, "rotation is not supported"),
        (GPTQ | {"dynamic": {"+:.*o_proj": {"bits": 8}}}, "other options for +:.*o_p"),
        (AWQ | {"version": "gemv"}, "version must be gemm, found gemv"),
        (AWQ | {"bits": 8}, "bits must be one of 4, found 8"),
        (AWQ | {"zero_point": False}, "zero_point must be true"),
        (FP8 | {"expert_dtype": "fp4"}, "expert_dtype must be fp8, found fp4"),
        (FP8 | {"weight_block_size": [128]}, "weight_block_size must be two sizes"),
        (FP8 | {"weight_block_size": [128, 0]}, "weight_block_size must be two sizes"),
        (
            {"quant_method": "modelopt", "quant_algo": "NVFP4"},
            "quant_algo must be one of FP8, FP8_PER_CHANNEL_PER_TOKEN, found NVFP4",
        ),
        (
            compressed(weights(num_bits=3)),
            "num_bits must be one of 2, 4, 8, found 3; use the unquantised weights, or",
        ),
        (
            compressed(weights(type="float", num_bits=4), format="float-quantized"),
            "num_bits must be one of 8, found 4",
        ),
        (
            compressed(weights(type="float", num_bits=8)),
            "type must be int in the format pack-quantized",
        ),
        (compressed(weights(type="complex")), "type must be int or float, found comp"),
        (compressed(weights(strategy="token")), "strategy must be one of tensor, chan"),
        (compressed(weights(group_size=None)), "group_size is missing, which the"),
        (
            compressed(weights(num_bits=16), format="int-quantized"),
            "num_bits must be one of 1, 2, 3, 4, 5, 6, 7, 8, found 16",
        ),
        (
            compressed(weights(), format="marlin-24"),
            "format marlin-24 is not supported",
        ),
        (
            compressed(weights(), format="nvfp4-pack-quantized"),
            "group_0: format nvfp4-pack-quantized is not supported",
        ),
        (
            compressed(weights(), sparsity_config={"format": "sparse-24-bitmask"}),
            "sparsity_config: format must be dense, found sparse-24-bitmask",
        ),
        (
            compressed(
                weights(),
                transform_config={"config_groups": {"u": {}}},
            ),
            "transform_config: config_groups rotate activations",
        ),
        (compressed({"weights": weights()["weights"]}), "targets is missing"),
        (compressed(weights(), ignore=["re:("]), "has re:(, which is no pattern"),
        (compressed(weights(), ignore=["re:(a+)+b"]), "searched for without end"),
        (compressed(weights(), ignore=["re:" + ".*a" * 5]), "searched for without"),
        (compressed(weights(), ignore=[1]), "ignore must be a list of strings"),
    ],
)
def test_what_cannot_be_read_is_refused_by_key_and_value(scheme_of, values, message):
    with pytest.raises(CheckpointError) as error:
        scheme_of(values)
    assert str(error.value).startswith("config.json: quantization_config")
    assert message in str(error.value)
    assert len(str(error.value)) < 500


def test_a_key_of_mlx_is_recognised(scheme_of):
    with pytest.raises(CheckpointError, match="found mlx; make it dense with mlx_lm"):
        scheme_of({"group_size": 64, "bits": 4}, key="quantization")


@pytest.mark.parametrize(
    ("values", "endings"),
    [
        (GPTQ, ("qweight", "qzeros", "scales", "g_idx")),
        (AWQ, ("qweight", "qzeros", "scales")),
        (FP8, ("weight_scale_inv", "weight")),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, ("weight_scale", "weight")),
        (
            compressed(weights()),
            ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point"),
        ),
        (
            compressed(weights(num_bits=8), format="int-quantized"),
            ("weight_scale", "weight", "weight_g_idx"),
        ),
    ],
)
def test_parts_are_found_by_their_endings(scheme_of, values, endings):
    scheme = scheme_of(values)
    stored = {f"{Q_PROJ}.{ending}": None for ending in endings}
    stored |= dict.fromkeys([LAYER + "norm.weight", Q_PROJ + ".bias", "lm_head.weight"])
    assert scheme.parts(Q_PROJ + ".weight", stored) == tuple(list(stored)[:-3])
    for plain in (LAYER + "norm.weight", Q_PROJ + ".bias", "lm_head.weight"):
        assert scheme.parts(plain, stored) == ()


def test_parts_of_experts_stand_beside_their_name(scheme_of):
    name = LAYER + "mlp.experts.gate_up_proj"
    scheme = scheme_of({"quant_method": "mxfp4"})
    stored = {name + "_blocks": (2, 6, 3, 16), name + "_scales": (2, 6, 3)}
    assert scheme.parts(name, stored) == tuple(stored)
    assert scheme.dense_shape(name, stored) == (2, 96, 6)


@pytest.mark.parametrize(
    ("endings", "message"),
    [
        (["qweight", "scales"], "has qweight, but no qzeros"),
        (["qweight"], "has qweight, but no qzeros, scales"),
    ],
)
def test_a_missing_part_is_named(scheme_of, endings, message):
    stored = {f"{Q_PROJ}.{ending}" for ending in endings}
    with pytest.raises(CheckpointError, match=f"weight {Q_PROJ}.weight {message}"):
        scheme_of(GPTQ).parts(Q_PROJ + ".weight", stored)


def test_two_kinds_of_scales_at_once_are_refused(scheme_of):
    stored = {Q_PROJ + end for end in (".weight", ".weight_scale", ".weight_scale_inv")}
    with pytest.raises(CheckpointError, match="both weight_scale_inv and weight_scale"):
        scheme_of(FP8).parts(Q_PROJ + ".weight", stored)


@pytest.mark.parametrize(
    ("values", "skipped", "converted"),
    [
        (FP8 | {"modules_to_not_convert": ["lm_head"]}, "lm_head", "model.lm_head2"),
        (FP8 | {"ignored_layers": [LAYER + "mlp"]}, LAYER + "mlp.up", LAYER + "mlp2"),
        (
            FP8 | {"modules_to_not_convert": ["model.layers.*.mlp.gate"]},
            "model.layers.7.mlp.gate",
            "model.layers.7.mlp.gate_proj",
        ),
        (
            {"quant_method": "modelopt", "quant_algo": "FP8"}
            | {"exclude_modules": ["*.mlp.gate", "lm_head"]},
            "model.layers.0.mlp.gate",
            "model.layers.0.mlp.gate_proj",
        ),
    ],
)
def test_modules_to_skip_are_those_of_the_format(scheme_of, values, skipped, converted):
    scheme = scheme_of(values)
    for module in (skipped, converted):
        ending = "weight_scale"
        stored = {f"{module}.weight", f"{module}.{ending}"}
        if module == converted:
            assert scheme.parts(f"{module}.weight", stored)
        else:
            assert scheme.parts(f"{module}.weight", {f"{module}.weight"}) == ()
            rule = "is said to be stored as it is, but there is a weight_scale"
            with pytest.raises(CheckpointError, match=rule):
                scheme.parts(f"{module}.weight", stored)


def test_awq_skips_names_that_have_a_part(scheme_of):
    scheme = scheme_of(AWQ | {"modules_to_not_convert": ["visual"]})
    assert scheme.skipped.has("model.visual.blocks.0.attn")
    assert not scheme.skipped.has("model.layers.0.attn")


def test_compressed_tensors_ignores_whole_names_and_expressions(scheme_of):
    ignore = ["lm_head", r"re:.*mlp\.gate$"]
    skipped = scheme_of(compressed(weights(), ignore=ignore)).skipped
    assert skipped.has("lm_head")
    assert skipped.has("model.layers.3.mlp.gate")
    assert not skipped.has("model.layers.3.mlp.gate_proj")
    assert not skipped.has("model.lm_head")
    assert not skipped.has("lm_head.inner")


def test_a_group_that_names_modules_comes_before_one_of_a_class(scheme_of):
    eight = weights(num_bits=8) | {
        "targets": [r"re:.*down_proj", LAYER + "mlp.up_proj"]
    }
    scheme = scheme_of(compressed(weights(), eight))

    def bits(module):
        rule = next(
            r for r in scheme.rules if r.modules is None or r.modules.has(module)
        )
        return rule.layout.bits

    assert bits(LAYER + "mlp.down_proj") == 8
    assert bits(LAYER + "mlp.up_proj") == 8
    assert bits(Q_PROJ) == 4


def test_a_damaged_weight_is_named_with_its_file(scheme_of):
    scheme = scheme_of(GPTQ)
    arrays = {
        Q_PROJ + ".qweight": np.zeros((4, 8), np.int32),
        Q_PROJ + ".qzeros": np.zeros((1, 1), np.int32),
        Q_PROJ + ".scales": np.zeros((2, 8), np.float16),
    }
    start = re.escape(f"config.json: quantization_config (gptq): the weight {Q_PROJ}")
    with pytest.raises(CheckpointError, match=start + r"\.weight has scales for 2"):
        scheme.dequantise(
            Q_PROJ + ".weight",
            names=arrays,
            read=arrays.__getitem__,
            dtype=np.float32,
        )
    with pytest.raises(CheckpointError, match=start + r"\.weight expected two"):
        scheme.dense_shape(Q_PROJ + ".weight", dict.fromkeys(arrays, (4,)))


def test_scales_of_activations_and_keys_are_left_out_in_one_line():
    names = [Q_PROJ + ".input_scale", LAYER + "self_attn.k_scale", Q_PROJ + ".weight"]
    names.append(LAYER + "self_attn.v_proj.input_scale")
    assert [is_unused(name) for name in names] == [True, True, False, True]
    line = unused_line(name for name in names if is_unused(name))
    assert line == (
        "left out, since they change nothing here: 2 input_scale, 1 k_scale"
    )
    assert unused_line([]) == ""


def test_a_bias_of_zeros_is_recognised():
    zeros = np.zeros(3, np.float16)
    assert is_zero_bias(Q_PROJ + ".bias", zeros)
    assert not is_zero_bias(Q_PROJ + ".weight", zeros)
    assert not is_zero_bias(Q_PROJ + ".bias", zeros + np.float16(1))
    assert not is_zero_bias(Q_PROJ + ".bias", zeros * np.float16(np.nan))


def test_the_cost_is_one_line():
    line = cost_line(
        "gptq", stored_bytes=5_700_000_000, dense_bytes=16_100_000_000, dtype=np.float16
    )
    assert line == (
        "5.7 GB of gptq are dequantised on load: 16.1 GB of float16, 2.8 times as much"
    )
    small = cost_line("fp8", stored_bytes=900, dense_bytes=1_800, dtype="bfloat16")
    assert small.startswith("900 B of fp8 are dequantised on load: 1.8 kB of bfloat16")


KEYS = st.sampled_from(
    [
        *("quant_method", "bits", "group_size", "checkpoint_format", "version", "sym"),
        *("weight_block_size", "modules_to_not_convert", "ignore", "config_groups"),
        *("format", "weights", "targets", "num_bits", "strategy", "type", "dynamic"),
        *("quantization_config", "quantization", "sparsity_config", "block_structure"),
        *("quant_algo", "transform_config", "group_0", "zero_point", "w_bit"),
    ]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["gptq", "awq", "fp8", "mxfp4", "modelopt", "int", "group"])
    | st.sampled_from(["compressed-tensors", "pack-quantized", "re:(", "1x0", "gemm"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6)
    ),
    max_leaves=20,
)


@settings(max_examples=200)
@given(
    values=st.dictionaries(KEYS, VALUES),
    method=st.none() | st.sampled_from(sorted(METHODS)),
)
def test_no_configuration_does_anything_but_raise_a_checkpoint_error(values, method):
    if method is not None:
        values = values | {"quant_method": method}
    fields = Fields({"quantization_config": values}, "config.json")
    try:
        scheme = read_scheme(fields, directory=Path("no such folder"))
    except CheckpointError as error:
        assert str(error).startswith("config.json: quantization_config")
        assert len(str(error)) < 1_000
    else:
        assert scheme.parts(Q_PROJ + ".weight", {Q_PROJ + ".weight"}) == ()
