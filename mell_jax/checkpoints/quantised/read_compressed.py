"""Reads compressed-tensors' configuration: groups of modules, each with a layout."""

from collections.abc import Sequence
from typing import NoReturn

from mell_jax.checkpoints.json_file import Fields, shown
from mell_jax.checkpoints.quantised.compressed_tensors import (
    CompressedTensors,
    Strategy,
)
from mell_jax.checkpoints.quantised.modules import (
    PREFIX,
    Matching,
    read_modules,
)
from mell_jax.checkpoints.quantised.scheme import Rule, Scheme
from mell_jax.checkpoints.quantised.sizes import read_block, read_group_size

METHOD = "compressed-tensors"
WHOLE_FORMATS = ("naive-quantized", "int-quantized", "float-quantized")
PACKED_FORMAT = "pack-quantized"
DENSE_FORMATS = ("dense", "fakequant")
PACKED_BITS = (2, 4, 8)
DENSE_WAY_OUT = (
    "use the unquantised weights, or a version in one of the formats "
    f"{', '.join((*WHOLE_FORMATS, PACKED_FORMAT))}"
)


def read_compressed(fields: Fields) -> Scheme:
    """Returns the scheme that a configuration of compressed-tensors describes.

    Raises:
      CheckpointError: naming the key, the value found and what is supported.
    """
    fields = _unwrapped(fields)
    _refuse_what_changes_arithmetic(fields)
    groups = fields.section("config_groups")
    named, by_class = [], []
    for group in map(groups.section, groups.values):
        layout = _layout(group, fields.text("format", default=DENSE_FORMATS[0]))
        if layout is None:
            continue
        targets = group.texts("targets")
        if any(map(_is_class, targets)):
            by_class.append(Rule(layout=layout))
        if not all(map(_is_class, targets)):
            modules = read_modules(group, "targets", matching=Matching.WHOLE)
            named.append(Rule(layout=layout, modules=modules))
    return Scheme(
        method=METHOD,
        where=fields.where,
        rules=(*named, *by_class),  # a name says more than a class
        skipped=read_modules(fields, "ignore", matching=Matching.WHOLE),
    )


def _unwrapped(fields: Fields) -> Fields:
    """Older files have it one level lower, with the sparsity beside it."""
    if not fields.has("quantization_config"):
        return fields
    if fields.has("sparsity_config"):
        _refuse_sparsity(fields)
    return fields.section("quantization_config")


def _refuse_what_changes_arithmetic(fields: Fields) -> None:
    if fields.has("sparsity_config"):
        _refuse_sparsity(fields)
    transforms = fields.section("transform_config")
    if transforms.section("config_groups").values:
        transforms.fail(
            "config_groups",
            "rotate activations, which is not supported; use the unquantised weights",
        )


def _refuse_sparsity(fields: Fields) -> None:
    sparsity = fields.section("sparsity_config")
    name = sparsity.text("format", default="dense")
    if sparsity.values and name != "dense":
        sparsity.fail("format", f"must be dense, found {shown(name)}; {DENSE_WAY_OUT}")


def _is_class(target: str) -> bool:
    """Whether a target is a class of modules, such as "Linear"."""
    return not target.startswith(PREFIX) and "." not in target and target[:1].isupper()


def _layout(group: Fields, default_format: str) -> CompressedTensors | None:
    """How a group is stored; None where it is stored as it is."""
    name = group.text("format", default=default_format)
    if name in DENSE_FORMATS or not group.has("weights"):
        return None
    if name not in (*WHOLE_FORMATS, PACKED_FORMAT):
        group.fail("format", f"{shown(name)} is not supported; {DENSE_WAY_OUT}")
    weights = group.section("weights")
    is_packed = name == PACKED_FORMAT
    is_float = _is_float(weights)
    if is_packed and is_float:
        weights.fail("type", f"must be int in the format {name}; {DENSE_WAY_OUT}")
    strategy = _strategy(weights)
    return CompressedTensors(
        bits=_bits(weights, PACKED_BITS) if is_packed else _whole_bits(weights),
        is_float=is_float,
        is_packed=is_packed,
        strategy=strategy,
        group_size=_group_size(weights) if strategy is Strategy.GROUP else 1,
        block=_block(weights) if strategy is Strategy.BLOCK else (1, 1),
    )


def _bits(weights: Fields, allowed: Sequence[int]) -> int:
    bits = weights.integer("num_bits", default=8)
    if bits not in allowed:
        weights.fail(
            "num_bits",
            f"must be one of {', '.join(map(str, allowed))}, found {str(bits)[:20]}; "
            f"{DENSE_WAY_OUT}",
        )
    return bits


def _whole_bits(weights: Fields) -> int:
    """Eight: whole numbers of fewer bits also have a byte each."""
    _bits(weights, (8,) if _is_float(weights) else range(1, 9))
    return 8


def _is_float(weights: Fields) -> bool:
    name = weights.text("type", default="int")
    if name not in ("int", "float"):
        weights.fail("type", f"must be int or float, found {shown(name)}")
    return name == "float"


def _strategy(weights: Fields) -> Strategy:
    if not weights.has("strategy"):
        size = read_group_size(weights, "group_size", default=None)
        if not weights.has("group_size"):
            return Strategy.TENSOR
        return Strategy.CHANNEL if size is None else Strategy.GROUP
    name = weights.text("strategy")
    known = {strategy.value: strategy for strategy in Strategy}
    if name not in known:
        weights.fail(
            "strategy",
            f"must be one of {', '.join(known)}, found {shown(name)}; {DENSE_WAY_OUT}",
        )
    return known[name]


def _group_size(weights: Fields) -> int:
    size = read_group_size(weights, "group_size", default=None)
    if size is None:
        _refuse_missing(weights, "group_size", "group")
    return size


def _block(weights: Fields) -> tuple[int, int]:
    block = read_block(weights, "block_structure")
    if block is None:
        _refuse_missing(weights, "block_structure", "block")
    return block


def _refuse_missing(weights: Fields, key: str, strategy: str) -> NoReturn:
    weights.fail(key, f"is missing, which the strategy {strategy} needs")
