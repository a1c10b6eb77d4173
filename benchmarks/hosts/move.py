"""Measures a move of 4,096 tokens between two hosts on this machine's loopback.

    python -m benchmarks.hosts.move move.json

pages   bytes over a lane, from a device of this process to one of another, beside a
        plain socket that copies as many into memory that is there, turn by turn
move    a request that decodes goes from host to host; its downtime is counted in
        steps of the requests beside it
"""

import dataclasses
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from benchmarks.hosts.receiving import SECRET
from benchmarks.hosts.two_hosts import Move, TwoHosts, two_hosts
from mell_jax.bench.machine import look_around
from mell_jax.bench.shapes import SHAPES
from mell_jax.bench.stats import median, summarize
from mell_jax.checkpoints import save_hf
from mell_jax.engine.build import demo_directory
from mell_jax.engine.fleet.page_transfer import PageTransfer
from mell_jax.engine.frames import Handle
from mell_jax.engine.hosts import wires
from mell_jax.engine.hosts.hands import PIECE_PAGES
from mell_jax.hosts.pages.connection import Connection, dial
from mell_jax.hosts.pages.parcels import head_of, send_chunks
from mell_jax.hosts.wire import Arrived, Hello, Ways
from mell_jax.models.decoder import Decoder
from mell_jax.scheduler.ids import CopyId, DeviceGroupId, Epoch, RequestId
from mell_jax.scheduler.migration.messages import Chunk
from mell_jax.scheduler.plan import Places
from mell_jax.scheduler.transfer import Mode

TOKENS, PAGE_TOKENS, CHUNK_PAGES = 4096, 16, 16
BYTES_PER_TOKEN = {"long": 2**12, "110m": 24 * 2**10, "1b": 2**15}
"""`1b` is as Llama 3.2 1B in bfloat16; the others are shapes of `mell_jax.bench`."""
TURNS, WARM_TURNS = 31, 4
MOVED = ("long", "110m")
"""Steps of the first take a millisecond or two, of the other some tens."""
MOVES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class PagesFigures:
    """Pages of 4,096 tokens of a model; medians over turns."""

    model: str
    bytes: int
    lane_gb_s: float
    plain_gb_s: float
    ratio: float  # median over turns: 1 is as fast as a plain socket


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveFigures:
    """A request of 4,096 tokens, and one beside it on each host."""

    model: str
    moves: int
    downtime_steps: float  # median; 1: as if it had not moved
    downtime_steps_max: float
    downtime_ms: float
    step_ms: float
    move_ms: float  # from the decision to the commit
    pages_gb_s: float  # of a piece, as hosts measure it, beside their steps


Figures = dict[str, Any]
Save = Callable[[Figures], None]


def keep_nothing(_: Figures) -> None:
    """Does nothing with figures that are known so far."""


def measure_move(*, save: Save = keep_nothing) -> Figures:
    """Returns all figures by name.

    Args:
      save: is given those that are known so far, after each part.
    """
    found: Figures = {}
    for model, size in BYTES_PER_TOKEN.items():
        for name, value in dataclasses.asdict(measure_pages(model, size)).items():
            if name != "model":
                found[f"pages of {model}, {name}"] = value
        save(found)
    for model in MOVED:
        figures = dataclasses.asdict(measure_moves(model, moves=MOVES))
        for name, value in figures.items():
            if name != "model":
                found[f"move of {model}, {name}"] = value
        save(found)
    return found


# Pages.


def measure_pages(model: str, bytes_per_token: int) -> PagesFigures:
    """Sends pages to another process, and as many bytes over a plain socket."""
    size = TOKENS * bytes_per_token
    command = [sys.executable, "-m", "benchmarks.hosts.receiving", str(size)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        ports = [int(port) for port in other.stdout.readline().split()]
        hello = Hello(role="pages", name="here", epoch=Epoch(1))
        lane = dial("127.0.0.1", ports[0], hello=hello, secret=SECRET, tls=None)
        lane.receive(Ways)
        plain = socket.create_connection(("127.0.0.1", ports[1]))
        data = np.random.default_rng(0).bytes(size)
        ways: dict[str, Callable[[], None]] = {
            "lane": _sender_of(data, over=lane),
            "plain": partial(_copy, data, over=plain),
        }
        laps: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(WARM_TURNS + TURNS):
            for name in sorted(ways, reverse=bool(turn % 2)):
                start_s = time.perf_counter()
                ways[name]()
                laps[name].append(time.perf_counter() - start_s)
        lane.cut()
        lane.close()
        plain.close()
        other.stdin.close()
    lanes, plains = (laps[name][WARM_TURNS:] for name in ways)
    return PagesFigures(
        model=model,
        bytes=size,
        lane_gb_s=size / median(lanes) / 1e9,
        plain_gb_s=size / median(plains) / 1e9,
        ratio=median([p / one for p, one in zip(plains, lanes, strict=True)]),
    )


def _sender_of(data: bytes, *, over: Connection) -> Callable[[], None]:
    """Returns what sends pages with these bytes, and waits for the answer."""
    count = TOKENS // PAGE_TOKENS // CHUNK_PAGES
    arrays = np.frombuffer(data, np.float32).reshape(count, CHUNK_PAGES, -1)
    chunks = tuple(map(jax.device_put, arrays))
    pages = PageTransfer(chunks=chunks, places=Places.in_order(TOKENS // PAGE_TOKENS))
    chunk = Chunk(
        request=RequestId(1),
        copy_id=CopyId(2),
        from_copy_id=CopyId(1),
        source=DeviceGroupId(1),
        mode=Mode.KV,
        first=0,
        end=TOKENS,
        is_last=False,
    )
    parcel = wires.Parcel(device=DeviceGroupId(2), message=chunk, pages=pages)

    def send() -> None:
        over.send(head_of(parcel))
        send_chunks(chunks, to=over)
        over.receive(Arrived)

    return send


def _copy(data: bytes, *, over: socket.socket) -> None:
    over.sendall(data)
    if not over.recv(1):
        raise ConnectionError("the other side has ended")


# Moves.


def measure_moves(model: str, *, moves: int) -> MoveFigures:
    """Moves a request of 4,096 tokens between two hosts, over and over.

    Args:
      model: a shape with random weights; its context is made long enough.
      moves: that count.

    Raises:
      RuntimeError: a host does not start, or a move does not end.
    """
    room = 2000
    with tempfile.TemporaryDirectory(prefix="mell-bench-") as folder:
        _save_model(Path(folder), shape=model)
        given = {
            "model": [folder],
            "mesh": "1x1",
            "cpu_devices": 1,
            "max_model_len": TOKENS + room,
            "max_rows": 4,
            "decode_rows": [4],
            "token_budget": 512,
            "kv_pages": 2 * (TOKENS + room) // PAGE_TOKENS + 1,
            "prefix_cache": False,
            "compilation_cache_dir": f"{folder}/compiled",
        }
        with two_hosts(given) as fleet:
            return _moves(fleet, model, moves=moves, new_tokens=room)


def _save_model(folder: Path, *, shape: str) -> None:
    """Writes random weights that never end a text, with the demo's tokenizer."""
    config = dataclasses.replace(
        SHAPES[shape],
        vocab_size=SHAPES["demo"].vocab_size,
        max_position_embeddings=SHAPES["long"].max_position_embeddings,
    )
    save_hf(folder, decoder=Decoder(config, rngs=nnx.Rngs(0)))
    for path in demo_directory().glob("tokenizer*"):
        shutil.copy(path, folder)


def _moves(fleet: TwoHosts, model: str, *, moves: int, new_tokens: int) -> MoveFigures:
    neighbours = [fleet.submit(64, new_tokens=new_tokens) for _ in range(2)]
    fleet.wait_tokens(neighbours, more=4)
    before = set(fleet.homes())
    mover = fleet.submit(TOKENS, new_tokens=new_tokens)
    fleet.wait_tokens([mover, *neighbours], more=8)
    (request,) = set(fleet.homes()) - before
    done: list[Move] = []
    with fleet.listening():
        for _ in range(moves + 1):
            done.append(fleet.move(request))
            fleet.wait_tokens([mover], more=8)
    del done[0]  # the first one connects
    gaps = [gap_of(fleet, mover, neighbours=neighbours, move=move) for move in done]
    steps = summarize([float(gap[0]) for gap in gaps])
    laps = np.diff(fleet.times[neighbours[0]])
    piece = PIECE_PAGES * PAGE_TOKENS * BYTES_PER_TOKEN[model]
    whole = [one for one in fleet.measured if one.nbytes >= piece]
    return MoveFigures(
        model=model,
        moves=len(done),
        downtime_steps=steps.median,
        downtime_steps_max=steps.max,
        downtime_ms=median([1e3 * gap[1] for gap in gaps]),
        step_ms=1e3 * float(np.median(laps)),
        move_ms=median([1e3 * (move.ended_s - move.began_s) for move in done]),
        pages_gb_s=median([one.nbytes / one.seconds / 1e9 for one in whole]),
    )


def gap_of(
    fleet: TwoHosts, mover: Handle, *, neighbours: Sequence[Handle], move: Move
) -> tuple[int, float]:
    """Returns the longest gap of a request about a move: steps, seconds.

    Steps are those of the neighbour that made most of them meanwhile.
    """
    times = fleet.times[mover]
    near = [
        index
        for index in range(1, len(times))
        if times[index] > move.began_s and times[index - 1] <= move.ended_s
    ]
    index = max(near, key=lambda i: times[i] - times[i - 1])
    last_s, first_s = times[index - 1], times[index]
    made = [
        sum(last_s < time_s <= first_s for time_s in fleet.times[neighbour])
        for neighbour in neighbours
    ]
    return max(1, *made), first_s - last_s


def main(argv: Sequence[str]) -> int:
    """Measures, prints and writes the figures; returns the exit status."""

    def save(found: Figures) -> None:
        machine = dataclasses.asdict(look_around())
        text = json.dumps({"results": found, "machine": machine}, indent=2)
        for path in map(Path, argv[1:]):
            path.write_text(text + "\n")

    for name, value in measure_move(save=save).items():
        print(f"{name:36} {value:,.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
