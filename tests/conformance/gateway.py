"""The openai client through the smg gateway: python gateway.py HOST:PORT

Starts smg in front of the server, which has the demo model. Runs in an environment of
its own, without mell_jax.
"""

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import openai
from openai_checks import check_all

TEMPLATE = Path(__file__).parent / "chat.jinja"
START_S = 120


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def gateway(address: str) -> Iterator[openai.OpenAI]:
    """A client of a gateway that is ready."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        with log.open("w") as file:
            process = subprocess.Popen(
                [
                    *(str(Path(sys.executable).parent / "smg"), "launch"),
                    *("--worker-urls", f"grpc://{address}"),
                    *("--host", "127.0.0.1", "--port", str(port)),
                    *("--prometheus-port", str(free_port())),
                    *("--chat-template", str(TEMPLATE)),
                ],
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            client = openai.OpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0
            )
            wait_ready(client, process, log=log)
            yield client
        finally:
            process.terminate()
            process.wait(60)


def wait_ready(
    client: openai.OpenAI, process: subprocess.Popen[bytes], *, log: Path
) -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        with contextlib.suppress(openai.APIError):
            if [model.id for model in client.models.list().data] == ["demo"]:
                return
        time.sleep(0.2)
    raise AssertionError(f"the gateway did not start: {log.read_text()[-3000:]}")


def main(address: str) -> None:
    with gateway(address) as client:
        check_all(client)
    print("openai through smg: all is well")


if __name__ == "__main__":
    main(sys.argv[1])
