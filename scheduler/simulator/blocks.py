"""Blocks of prompts are read from a file of one JSON object for each request.

    {"timestamp": 3000, "input_length": 1200, "output_length": 5, "hash_ids": [0, 7, 9]}

Times are in milliseconds; an id is of 512 tokens, the last one of what is left. Equal
ids mean equal content, and equal content before it. Mooncake publishes traces so.
"""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.simulator.workload import MOST, Workload

BLOCK_TOKENS = 512


def read_blocks(path: Path) -> Workload:
    """Reads requests with their blocks, of `.jsonl` or `.jsonl.gz`.

    Raises:
      ValueError: it is no such file, a field is missing or out of range, or arrivals go
        back; with the line and what it should be.
      OSError: it cannot be read.
    """
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            lines = file.read().splitlines()
    except (EOFError, UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not readable as text or gzip: {error}") from None
    if not lines:
        raise ValueError(f"{path} has no requests: it needs at least one line of them")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(_request(json.loads(line)))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    arrival_s = np.array([row["timestamp"] / 1e3 for row in rows])
    if (back := np.flatnonzero(np.diff(arrival_s) < 0)).size:
        raise ValueError(
            f"{path}, line {int(back[0]) + 2}: arrivals must not go back: sort the "
            "lines by timestamp"
        )
    return Workload(
        arrival_s=arrival_s,
        input_tokens=np.array([row["input_length"] for row in rows]),
        output_tokens=np.array([row["output_length"] for row in rows]),
        models=(ONLY_MODEL,) * len(rows),
        name=path.name.removesuffix(".gz").removesuffix(".jsonl"),
        blocks=tuple(tuple(row["hash_ids"]) for row in rows),
        block_tokens=BLOCK_TOKENS,
    )


def _request(row: Any) -> dict[str, Any]:
    """Raises ValueError for what is no request."""
    if not isinstance(row, dict):
        raise ValueError("it must be an object")
    time_ms: Any = row.get("timestamp")
    ids: Any = row.get("hash_ids")
    if not (_is_number(time_ms) and 0 <= time_ms < MOST):
        raise ValueError(f"timestamp must be milliseconds from 0 on, got {time_ms!r}")
    for name in ("input_length", "output_length"):
        count = row.get(name)
        if not (type(count) is int and 1 <= count < MOST):
            raise ValueError(f"{name} must be a whole number >= 1, got {count!r}")
    wanted = -(-row["input_length"] // BLOCK_TOKENS)
    is_list = isinstance(ids, list) and all(type(block) is int for block in ids)
    if not is_list or len(ids) != wanted:
        raise ValueError(
            f"hash_ids must be {wanted} whole numbers, one for each {BLOCK_TOKENS} "
            f"tokens of the prompt, got {ids!r}"
        )
    return row


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def add_blocks(workload: Workload, *, of: Workload) -> Workload:
    """Returns `workload` with the blocks of the same requests, read elsewhere.

    Raises:
      ValueError: they are other requests.
    """
    same = len(workload) == len(of) and bool(
        (workload.input_tokens == of.input_tokens).all()
    )
    if not same:
        raise ValueError(
            f"{of.name} has blocks of {len(of)} requests that are not the "
            f"{len(workload)} of {workload.name}: give those that belong together, or "
            "leave one out"
        )
    return replace(workload, blocks=of.blocks, block_tokens=of.block_tokens)
