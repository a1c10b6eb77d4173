"""Fits tuned sizes of the kernels, which are data per device kind, to a shape.

The data is `tuned.json` beside this file; `mell-bench --suite=kernels --tune` measures
it. What must hold on any device (powers of two, shared memory) is computed, not tuned.
"""

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonSizes:
    """The sizes say how one Triton kernel is cut; see `attention.triton`."""

    tile_tokens: int  # BQ query tokens per tile
    rows: int  # M >= BQ * N / K, a power of two and at least 16
    block_tokens: int  # C keys per round, a power of two
    num_splits: int  # programs that share a tile's keys
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MosaicTpuSizes:
    """The sizes say how the TPU kernel is cut; see `attention.mosaic_tpu`."""

    tile_tokens: int  # BQ query tokens per tile, of batches that are not decode
    block_pages: int  # pages per block of keys


@dataclass(frozen=True, slots=True, kw_only=True)
class MosaicGpuSizes:
    """The sizes say how the Hopper kernel is cut; see `attention.mosaic_gpu`."""

    block_tokens: int  # C keys per block, a multiple of 64
    num_slots: int  # blocks in flight
    num_splits: int  # blocks of threads that share a row's keys


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionProblem:
    """A problem holds the static facts that sizes depend on."""

    tiles: int  # decode: B rows
    kv_heads: int  # K
    group: int  # N / K
    head: int  # H
    kv_bytes: int  # of one number in the pool
    q_bytes: int  # of one number in the dots
    table_tokens: int  # M * S, the longest context


@functools.cache
def tuned(backend: str) -> Mapping[str, Any]:
    """Returns the sizes of a back end by device kind, with a "default"."""
    text = resources.files(__package__).joinpath("tuned.json").read_text()
    sizes: Mapping[str, Any] = json.loads(text)[backend]
    return sizes


def for_device(backend: str, device_kind: str) -> Mapping[str, Any]:
    """Returns the default with what the longest name that fits `device_kind` says
    instead.
    """
    entries = tuned(backend)
    fitting = [name for name in entries if device_kind.startswith(name)]
    chosen = entries[max(fitting, key=len, default="default")]
    return {**entries["default"], **chosen}


def decode_sizes(problem: AttentionProblem, *, device_kind: str) -> TritonSizes:
    """Returns sizes for tiles of one query token: programs that fill the device."""
    device = for_device("triton", device_kind)
    entry = device["decode"]
    sizes = TritonSizes(
        tile_tokens=1,
        rows=max(16, next_power_of_two(problem.group)),
        block_tokens=entry["block_tokens"],
        num_splits=1,
        num_warps=entry["num_warps"],
        num_stages=entry["num_stages"],
    )
    sizes = _fit(sizes, problem, shared_bytes=device["shared_bytes"])
    wanted = device["cores"] * entry["programs_per_core"]
    splits = wanted // (problem.tiles * problem.kv_heads)
    blocks = -(-problem.table_tokens // sizes.block_tokens)
    return replace(sizes, num_splits=_num_splits(splits, blocks, entry))


def prefill_sizes(problem: AttentionProblem, *, device_kind: str) -> TritonSizes:
    """Returns sizes for tiles of many query tokens, which feed the tensor cores."""
    device = for_device("triton", device_kind)
    entry = device["prefill"]
    rows = max(entry["rows"], next_power_of_two(problem.group))
    if problem.head > 128 or problem.q_bytes > 2:  # or the accumulators spill
        rows = max(64 * 2 // problem.q_bytes, next_power_of_two(problem.group))
    sizes = TritonSizes(
        tile_tokens=rows // problem.group,
        rows=rows,
        block_tokens=entry["block_tokens"],
        num_splits=1,
        num_warps=entry["num_warps"],
        num_stages=entry["num_stages"],
    )
    return _fit(sizes, problem, shared_bytes=device["shared_bytes"])


def mosaic_gpu_sizes(
    *, device_kind: str, programs: int, table_tokens: int
) -> MosaicGpuSizes:
    """Returns sizes for Hopper.

    Args:
      programs: rows times KV heads.
      table_tokens: the longest context.
    """
    entry = for_device("mosaic_gpu", device_kind)
    splits = entry["cores"] * entry["programs_per_core"] // programs
    blocks = -(-table_tokens // entry["block_tokens"])
    return MosaicGpuSizes(
        block_tokens=entry["block_tokens"],
        num_slots=entry["num_slots"],
        num_splits=_num_splits(splits, blocks, entry),
    )


def mosaic_tpu_sizes(
    *, device_kind: str, group: int, page_tokens: int, page_bytes: int
) -> MosaicTpuSizes:
    """Returns sizes for a TPU; blocks are at least a vector of 128 keys, if they can
    be.

    Args:
      page_bytes: of one page in one layer.
    """
    entry = for_device("mosaic_tpu", device_kind)
    tile_tokens = max(8, entry["rows"] // group // 8 * 8)
    block_pages = max(1, entry["block_tokens"] // page_tokens)
    while block_pages * page_bytes > entry["block_bytes"] and block_pages > 1:
        block_pages //= 2
    return MosaicTpuSizes(tile_tokens=tile_tokens, block_pages=block_pages)


def next_power_of_two(number: int) -> int:
    """Returns the smallest power of two that is at least `number`."""
    return 1 << (number - 1).bit_length()


def _num_splits(wanted: int, blocks: int, entry: Mapping[str, Any]) -> int:
    """A power of two; a share of a row is at least four blocks."""
    number = max(1, min(wanted, int(entry["max_splits"]), blocks // 4))
    return 1 << (number.bit_length() - 1)


def _fit(
    sizes: TritonSizes, problem: AttentionProblem, *, shared_bytes: int
) -> TritonSizes:
    """Fewer stages, then smaller blocks, until everything fits the shared memory."""
    head = next_power_of_two(problem.head)

    def needed(sizes: TritonSizes) -> int:
        block = 2 * sizes.block_tokens * head  # keys and values
        widened = block * problem.q_bytes if problem.kv_bytes != problem.q_bytes else 0
        tile = sizes.rows * (head + sizes.block_tokens) * problem.q_bytes
        return math.ceil(sizes.num_stages * block * problem.kv_bytes + widened + tile)

    while needed(sizes) > shared_bytes:
        if sizes.num_stages > 2:
            sizes = replace(sizes, num_stages=sizes.num_stages - 1)
        elif sizes.block_tokens > 16:
            sizes = replace(sizes, block_tokens=sizes.block_tokens // 2)
        else:
            break
    return sizes
