"""A server that does not get ready: DIRECTORY FRONTENDS TEMPLATE [early].

It reads the chat template at TEMPLATE, which nobody writes; with "early" it sends
itself a signal instead, when its engine starts.
"""

import os
import signal
import sys
import time
from pathlib import Path

from mell_jax.frontend import Sink
from mell_jax.launch_server import serve
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.stop_signals import end_at_once_when_told
from mell_jax.serving.vllm.servicer import ServedModel
from mell_jax.text.tokenizer import load_tokenizer
from tests.serving.fake_engine import FakeEngine


class EarlySignal(FakeEngine):
    """Is told to stop at its start."""

    def start(self, sink: Sink) -> None:
        super().start(sink)
        os.kill(os.getpid(), signal.SIGTERM)


def main(directory: str, frontends: str, template: str, *, is_early: bool) -> int:
    end_at_once_when_told()
    tokenizer = None if int(frontends) else load_tokenizer(Path(directory))
    return serve(
        EarlySignal() if is_early else FakeEngine(),
        models=[
            ServedModel(
                name="letters",
                path="",
                tokenizer_dir=Path(directory),
                tokenizer=tokenizer,
            )
        ],
        config=ServerConfig(
            port=0,
            http_port=0,
            health_port=0,
            grace_s=600.0,
            drain_s=600.0,
            frontends=int(frontends),
            chat_templates=() if is_early else (template,),
        ),
        started_s=time.monotonic(),
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4], is_early="early" in sys.argv))
