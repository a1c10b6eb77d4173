"""Starts a fleet of eight devices on this CPU, under a load that comes and goes.

Open the page that it names, and see requests move while their streams go on:

    python examples/watch_fleet.py        # until Ctrl-C
"""

import argparse
import asyncio
import contextlib
import math
import random
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mell_jax.bench.targets import BenchTarget, TargetError, connect

DEVICES = 8
PERIOD_S = 75.0  # from one crowd to the next
FEWEST = 0.12  # streams between two crowds, as a share of the most
LOOK_S = 0.25
START_LINES = 20
END_S = 30.0
TEXT_BROWSERS = ("elinks", "links", "lynx", "w3m", "www-browser")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The server listens there."""

    grpc: str
    http: str  # a URL


def server_command(*, http_port: int, more: Sequence[str] = ()) -> list[str]:
    """Returns what starts the fleet; its devices are small, so that they fill up."""
    return [
        *(sys.executable, "-m", "mell_jax.launch", "--model=demo", "--port=0"),
        *(f"--http_port={http_port}", f"--cpu_devices={DEVICES}"),
        *(f"--devices={DEVICES}", "--max_rows=12", "--kv_pages=151", *more),
    ]


def places_of(server: subprocess.Popen[str]) -> Places:
    """Waits until the server takes requests, and returns where.

    Raises:
      RuntimeError: it ended instead; it has said why.
    """
    assert server.stdout is not None
    grpc = ""
    for _ in range(START_LINES):
        words = server.stdout.readline().split()
        if words[1:4] == ["is", "served", "at"]:
            grpc = words[4].rstrip(",")
        elif words[1:3] == ["has", "/v1"]:
            return Places(grpc=grpc, http=words[0])
    raise RuntimeError("the server did not start; its errors stand above")


@contextlib.contextmanager
def running(command: Sequence[str]) -> Iterator[Places]:
    """Runs a server, and ends it in order; Ctrl-C is for this program alone."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, process_group=0
    ) as server:
        try:
            yield places_of(server)
        finally:
            server.terminate()
            try:
                server.wait(END_S)
            except subprocess.TimeoutExpired:
                server.kill()


def wanted(most: int, *, at_s: float) -> int:
    """Returns how many streams are to be open at a time: a crowd comes and goes."""
    crowd = 0.5 - 0.5 * math.cos(2 * math.pi * at_s / PERIOD_S)
    return round(most * (FEWEST + (1 - FEWEST) * crowd))


async def ask_one(target: BenchTarget, rng: random.Random) -> int:
    """Reads one answer to its end; returns its tokens."""
    prompt = [rng.randrange(3, target.info.vocab_size) for _ in range(lengths(rng))]
    pieces = target.stream(
        np.array(prompt, np.int32), output_tokens=3 * lengths(rng), temperature=1.0
    )
    return sum([piece.tokens async for piece in pieces])


def lengths(rng: random.Random) -> int:
    """Returns tokens of a prompt, or a third of those of an answer: most are short."""
    return min(120, 12 + int(rng.lognormvariate(3.9, 0.7)))


async def send_load(target: BenchTarget, *, most: int, seconds: float) -> int:
    """Keeps as many streams open as are wanted; returns the tokens that came."""
    rng, open_streams, tokens = random.Random(0), set[asyncio.Task[int]](), 0
    start_s = time.monotonic()
    try:
        while (at_s := time.monotonic() - start_s) < seconds:
            for _ in range(wanted(most, at_s=at_s) - len(open_streams)):
                open_streams.add(asyncio.create_task(ask_one(target, rng)))
            done, open_streams = await asyncio.wait(open_streams, timeout=LOOK_S)
            tokens += sum(task.result() for task in done)
    finally:
        for task in open_streams:
            task.cancel()
        await asyncio.gather(*open_streams, return_exceptions=True)
    return tokens


async def drive(places: Places, *, most: int, seconds: float) -> int:
    async with connect(places.grpc) as target:
        return await send_load(target, most=most, seconds=seconds)


def open_page(url: str) -> None:
    """Opens a page, if this machine has a browser with windows."""
    with contextlib.suppress(webbrowser.Error):  # there is none
        browser = webbrowser.get()
        if getattr(browser, "name", "") not in TEXT_BROWSERS:
            browser.open(url)


def main() -> int:
    """Runs the demonstration; returns the exit status."""
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--http_port", type=int, default=0, help="0 takes any free one")
    text = "streams are open when it is crowded"
    flags.add_argument("--streams", type=int, default=72, help=text)
    text = "after so long it ends; by default with Ctrl-C"
    flags.add_argument("--seconds", type=float, default=math.inf, help=text)
    text = "the page is not opened"
    flags.add_argument("--no_browser", action="store_true", help=text)
    given = flags.parse_args()
    print(f"{DEVICES} devices start on this CPU; it takes half a minute", flush=True)
    try:
        with running(server_command(http_port=given.http_port)) as places:
            url = f"{places.http}/fleet"
            print(f"\n  {url}\n\nshows them. Ctrl-C ends it.", flush=True)
            if not given.no_browser:
                open_page(url)
            tokens = asyncio.run(
                drive(places, most=given.streams, seconds=given.seconds)
            )
            print(f"{tokens} tokens came")
    except KeyboardInterrupt:
        print("\nended")
    except (RuntimeError, TargetError) as error:
        print(f"watch_fleet: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
