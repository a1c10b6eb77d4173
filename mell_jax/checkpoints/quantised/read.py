"""Finds out how a model directory is quantised, by what its files say.

`quantization_config` of config.json is looked at first, then older keys and files. What
cannot be read is refused here, with its way out, before a tensor is looked at.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from mell_jax.checkpoints.json_file import Fields, read_object, shown
from mell_jax.checkpoints.quantised.awq import AWQ_BITS, Awq
from mell_jax.checkpoints.quantised.fp8 import Fp8
from mell_jax.checkpoints.quantised.gptq import GPTQ_BITS, Gptq
from mell_jax.checkpoints.quantised.modules import Matching, Modules, read_modules
from mell_jax.checkpoints.quantised.mxfp4 import Mxfp4
from mell_jax.checkpoints.quantised.read_compressed import METHOD, read_compressed
from mell_jax.checkpoints.quantised.scheme import Rule, Scheme
from mell_jax.checkpoints.quantised.sizes import read_block, read_group_size

CONFIG_KEY = "quantization_config"
OLD_COMPRESSION_KEY = "compression_config"
MLX_KEY = "quantization"
GPTQ_FILE = "quantize_config.json"
AWQ_FILE = "quant_config.json"
MODELOPT_FILE = "hf_quant_config.json"
MAX_FILE_BYTES = 1 << 20
MODELOPT_ALGORITHMS = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN")
SKIP_KEYS = (
    *("modules_to_not_convert", "ignored_layers"),  # transformers, vLLM
    *("ignore", "exclude_modules"),  # ModelOpt
)

WAYS_OUT = {
    "bitsandbytes": "load it with transformers, model.dequantize() and save it",
    "mlx": "make it dense with mlx_lm.convert --dequantize",
}


def read_scheme(fields: Fields, *, directory: Path) -> Scheme | None:
    """Returns how the weights of a model directory are quantised; None if they are not.

    Args:
      fields: of its config.json, or of the part that describes the text model.
      directory: for what older tools wrote into files of their own.

    Raises:
      CheckpointError: naming the file, the key, the value found and the way out.
    """
    for key in (CONFIG_KEY, OLD_COMPRESSION_KEY, MLX_KEY):
        if fields.has(key):
            section = fields.section(key)
            return METHODS[_method(section, key)](section)
    for name, reader in FILES.items():
        path = directory / name
        if path.exists():
            values = read_object(path, max_bytes=MAX_FILE_BYTES)
            return reader(Fields(values, str(path)))
    return None


def _method(fields: Fields, key: str) -> str:
    """The method's name, also of files that have none."""
    if fields.has("quant_method"):
        name = fields.text("quant_method").lower()
    elif key == OLD_COMPRESSION_KEY or fields.has("config_groups"):
        name = METHOD
    elif fields.has("load_in_8bit") or fields.has("load_in_4bit"):
        name = "bitsandbytes"
    elif key == MLX_KEY or (fields.has("bits") and fields.has("group_size")):
        name = "mlx"
    else:
        name = fields.text("quant_method")  # which is missing
    if name not in METHODS:
        _refuse_method(fields, name)
    return name


def _refuse_method(fields: Fields, name: str) -> NoReturn:
    way_out = WAYS_OUT.get(name, "use the unquantised weights of this model")
    fields.fail(
        "quant_method",
        f"must be one of {', '.join(METHODS)}, found {shown(name)}; {way_out}",
    )


def _skipped(fields: Fields, matching: Matching) -> Modules:
    """The modules that any of the keys leaves out."""
    found = [read_modules(fields, key, matching=matching) for key in SKIP_KEYS]
    return Modules(patterns=sum((modules.patterns for modules in found), ()))


def _fp8(fields: Fields) -> Scheme:
    if fields.text("expert_dtype", default="fp8") != "fp8":
        fields.fail(
            "expert_dtype",
            f"must be fp8, found {shown(fields.text('expert_dtype'))}; use the "
            "unquantised weights of this model",
        )
    return Scheme(
        method="fp8",
        where=fields.where,
        rules=(Rule(layout=Fp8(block=read_block(fields, "weight_block_size"))),),
        skipped=_skipped(fields, Matching.PREFIX_OR_SUFFIX),
    )


def _modelopt(fields: Fields) -> Scheme:
    if fields.has("quantization"):  # as in the file of its own
        fields = fields.section("quantization")
    has_dense_weights = not fields.has("quant_algo") and (
        fields.has("kv_cache_quant_algo") or fields.has("kv_cache_scheme")
    )
    if has_dense_weights:
        return Scheme(method="modelopt", where=fields.where, rules=())
    algorithm = fields.text("quant_algo")
    if algorithm not in MODELOPT_ALGORITHMS:
        fields.fail(
            "quant_algo",
            f"must be one of {', '.join(MODELOPT_ALGORITHMS)}, found "
            f"{shown(algorithm)}; use the unquantised weights, or a version in FP8",
        )
    return Scheme(
        method="modelopt",
        where=fields.where,
        rules=(Rule(layout=Fp8()),),
        skipped=_skipped(fields, Matching.WILDCARD),
    )


def _gptq(fields: Fields) -> Scheme:
    _refuse_gptq_options(fields)
    key = "checkpoint_format" if fields.has("checkpoint_format") else "format"
    name = fields.text(key, default="gptq")
    if name not in ("gptq", "gptq_v2"):
        fields.fail(
            key,
            f"must be gptq or gptq_v2, found {shown(name)}; use a version for another "
            "back end than that",
        )
    layout = Gptq(
        bits=_bits(fields, "bits", GPTQ_BITS),
        group_size=read_group_size(fields, "group_size", default=None),
        has_low_zeros=name == "gptq",
        is_symmetric=fields.flag("sym", default=False),
    )
    return Scheme(method="gptq", where=fields.where, rules=(Rule(layout=layout),))


def _refuse_gptq_options(fields: Fields) -> None:
    if fields.flag("is_marlin_format", default=False):
        fields.fail(
            "is_marlin_format", "must be false; use the version that is not for Marlin"
        )
    words = fields.text("pack_dtype", default="int32")
    if words != "int32":
        fields.fail("pack_dtype", f"must be int32, found {shown(words)}")
    if fields.has("rotation"):
        fields.fail("rotation", "is not supported; use a version without it")
    for pattern, options in fields.section("dynamic").values.items():
        if not pattern.startswith("-:") and options:
            fields.fail(
                "dynamic",
                f"has other options for {shown(pattern)}, which is not supported; use "
                "a version in which all modules have the same",
            )


def _awq(fields: Fields) -> Scheme:
    keys = ("version", "checkpoint_format", "format")
    version_key = next(filter(fields.has, keys), keys[0])
    version = fields.text(version_key, default="gemm").lower()
    if version != "gemm":
        fields.fail(
            version_key,
            f"must be gemm, found {shown(version)}; use the unquantised weights, or "
            "the GEMM version",
        )
    if not fields.flag("zero_point", default=True):
        fields.fail("zero_point", "must be true; use the unquantised weights")
    _bits(fields, "w_bit" if fields.has("w_bit") else "bits", (AWQ_BITS,))
    size_key = "q_group_size" if fields.has("q_group_size") else "group_size"
    layout = Awq(group_size=read_group_size(fields, size_key, default=128))
    return Scheme(
        method="awq",
        where=fields.where,
        rules=(Rule(layout=layout),),
        skipped=_skipped(fields, Matching.PART),
    )


def _mxfp4(fields: Fields) -> Scheme:
    return Scheme(
        method="mxfp4",
        where=fields.where,
        rules=(Rule(layout=Mxfp4()),),
        skipped=_skipped(fields, Matching.PREFIX_OR_SUFFIX),
    )


def _bits(fields: Fields, key: str, allowed: tuple[int, ...]) -> int:
    bits = fields.integer(key)
    if bits not in allowed:
        fields.fail(
            key,
            f"must be one of {', '.join(map(str, allowed))}, found "
            f"{str(bits)[:20]}; use the unquantised weights, or a version "
            "in one of these",
        )
    return bits


METHODS: dict[str, Callable[[Fields], Scheme]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "modelopt": _modelopt,
    METHOD: read_compressed,
    "gptq": _gptq,
    "awq": _awq,
    "mxfp4": _mxfp4,
}
FILES: dict[str, Callable[[Fields], Scheme]] = {
    MODELOPT_FILE: _modelopt,
    GPTQ_FILE: _gptq,
    AWQ_FILE: _awq,
}
