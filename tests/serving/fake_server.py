"""Serves the letters: DIRECTORY PORT DRAIN_S FRONTENDS CONTEXT [HTTP_PORT [json]]."""

import sys
import time
from dataclasses import replace
from pathlib import Path

from absl import logging

from mell_jax.launch_server import serve
from mell_jax.serving.address import BindError
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.observe.logs import LogFormat, set_up_logging
from mell_jax.serving.vllm.servicer import ServedModel
from mell_jax.text.tokenizer import load_tokenizer
from tests.serving.fake_engine import INFO, FakeEngine


def main() -> int:
    directory, port, drain_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    frontends, context = int(sys.argv[4]), int(sys.argv[5])
    http_port = int(sys.argv[6]) if len(sys.argv) > 6 else None
    log_format: LogFormat = "json" if "json" in sys.argv else "text"
    set_up_logging(log_format, verbosity=logging.WARNING, process="engine")
    try:
        return serve(
            FakeEngine(info=replace(INFO, max_model_len=context)),
            models=[
                ServedModel(
                    name="letters",
                    path="",
                    tokenizer_dir=directory,
                    tokenizer=load_tokenizer(directory),
                )
            ],
            config=ServerConfig(
                port=port,
                drain_s=drain_s,
                frontends=frontends,
                http_port=http_port,
                log_format=log_format,
            ),
            started_s=time.monotonic(),
        )
    except BindError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
