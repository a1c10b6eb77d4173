"""Serves the letters in a process of its own: fake_server.py DIRECTORY PORT DRAIN_S.

A fourth argument is the port for HTTP.
"""

import sys
import time
from pathlib import Path

from mell_jax.launch import serve
from mell_jax.serving.server import BindError, ServerConfig
from mell_jax.serving.servicer import ServedModel
from mell_jax.text.tokenizer import load_tokenizer
from tests.serving.fake_engine import FakeEngine


def main() -> int:
    directory, port, drain_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    http_port = int(sys.argv[4]) if len(sys.argv) > 4 else None
    try:
        return serve(
            FakeEngine(),
            models=[
                ServedModel(
                    name="letters",
                    path="",
                    tokenizer_dir=directory,
                    tokenizer=load_tokenizer(directory),
                )
            ],
            config=ServerConfig(port=port, drain_s=drain_s, http_port=http_port),
            started_s=time.monotonic(),
        )
    except BindError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
