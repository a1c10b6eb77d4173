"""Runs a client against a real server: python with_server.py COMMAND ... ADDRESS URL

The server has the demo model, or what flags before the command say (--model=FILE ...),
on two virtual devices and, when both serve, moves every request every twenty steps,
which no client may notice. ADDRESS becomes host:port of gRPC, URL that of HTTP.
Afterwards the server is told to end, and must do so in order.
"""

import itertools
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SERVER = (
    *(sys.executable, "-m", "mell_jax.launch", "--port=0", "--http_port=0"),
    *("--mesh=2x1", "--cpu_devices=2", "--fault=move:20"),
)
DEMO = (
    *(f"--chat_template={Path(__file__).parent / 'chat.jinja'}", "--max_rows=8"),
    "--tool_format=hermes",
)
START_LINES = 20
CLIENT_S = 600
END_S = 60


def places_of(server: subprocess.Popen[str]) -> dict[str, str]:
    """Waits for the server to be ready; where it serves."""
    assert server.stdout is not None
    places: dict[str, str] = {}
    for _ in range(START_LINES):
        words = server.stdout.readline().split()
        if words[1:4] == ["is", "served", "at"]:
            places["ADDRESS"] = words[4].rstrip(",")
        elif words[1:3] == ["has", "/v1"]:
            return {**places, "URL": words[0]}
    raise AssertionError("the server did not start; its errors stand above")


def main(words: Sequence[str]) -> int:
    flags = list(itertools.takewhile(lambda word: word.startswith("--"), words))
    command, server_words = words[len(flags) :], (*SERVER, *(flags or DEMO))
    with subprocess.Popen(server_words, stdout=subprocess.PIPE, text=True) as server:
        try:
            places = places_of(server)
            done = subprocess.run(
                [places.get(word, word) for word in command],
                timeout=CLIENT_S,
                check=False,
            )
            server.send_signal(signal.SIGTERM)
            ended = server.wait(END_S)
        finally:
            server.kill()
    if ended != 0:
        print(f"the server ended with status {ended}", file=sys.stderr)
    return done.returncode or ended


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
