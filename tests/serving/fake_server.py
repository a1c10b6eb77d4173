"""A server process with the fake engine, served as `mell-serve` serves a real one.

It has no model to load: for signals, exit statuses and output. `harness`
has the same engine behind a server in this process, to be looked into; `running` has
`mell-serve` itself.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from absl import logging

from mell_jax.frontend import Sink
from mell_jax.serving.address import BindError
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.grpc_log import quiet_grpc
from mell_jax.serving.observe.logs import set_up_logging
from mell_jax.serving.served_model import ServedModel
from mell_jax.serving.stop_signals import end_at_once_when_told
from mell_jax.text.tokenizer import load_tokenizer
from tests.serving.fake_engine import INFO, FakeEngine

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeServer:
    process: subprocess.Popen[str]
    address: str
    said: str  # all that it printed once it was ready


@contextmanager
def started(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A process of any program, which is over afterwards."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def command(
    directory: Path,
    *,
    context: int = 1000,
    is_told_to_stop: bool = False,
    **config: Any,
) -> tuple[str, ...]:
    """How such a server is started.

    Args:
      directory: has the letters tokenizer.
      context: most tokens of a request.
      is_told_to_stop: it gets a signal when its engine starts.
      config: fields of `ServerConfig`.
    """
    config = {"port": 0, "drain_s": 0.0, "frontends": 1, **config}
    words = {"context": context, "is_told_to_stop": is_told_to_stop, "config": config}
    return (sys.executable, "-m", __name__, str(directory), json.dumps(words))


@contextmanager
def fake_server(directory: Path, **config: Any) -> Iterator[FakeServer]:
    """One that takes requests; the arguments are those of `command`."""
    with started(*command(directory, **config)) as process:
        assert process.stdout is not None
        has_http = {"http_port", "http_unix_socket"} & config.keys()
        lines = 8 if has_http else 4
        said = "".join(process.stdout.readline() for _ in range(lines))
        match = re.match(r"letters is served at (\S+), \d+\.\d s after", said)
        assert match, said + process.communicate()[1]
        assert f" -m mell_jax.client --address={match[1]} " in said
        yield FakeServer(process=process, address=match[1], said=said)


class ToldToStop(FakeEngine):
    """Sends its process a signal at its start."""

    def start(self, sink: Sink) -> None:
        super().start(sink)
        os.kill(os.getpid(), signal.SIGTERM)


def main(directory: str, words: str) -> int:
    started_s = time.monotonic()
    quiet_grpc()
    from mell_jax.launch_server import serve  # noqa: PLC0415 it imports gRPC

    end_at_once_when_told()
    asked = json.loads(words)
    config = ServerConfig(**asked["config"])
    set_up_logging(config.log_format, verbosity=logging.WARNING, process="engine")
    engine = ToldToStop if asked["is_told_to_stop"] else FakeEngine
    path = Path(directory)
    try:
        return serve(
            engine(info=replace(INFO, max_model_len=asked["context"])),
            models=[
                ServedModel(
                    name="letters",
                    path="",
                    tokenizer_dir=path,
                    tokenizer=None if config.frontends else load_tokenizer(path),
                )
            ],
            config=config,
            started_s=started_s,
        )
    except BindError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
