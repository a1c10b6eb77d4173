"""The example for Ray Serve on a cluster: python -m tests.conformance.ray_serve

It answers whole, in pieces and with errors as `mell-serve` does; a client that goes
away ends its request; a replica that is killed is replaced, and takes its fleet along.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conformance.ray_clusters import below, free_port, nodes, own_files
from tests.conformance.ray_fleet import START_S, until
from tests.conformance.reaped import reaped
from tests.hosts.processes import living

EXAMPLES = Path(__file__).parents[2] / "examples"
FLAGS = (
    *("--mesh=1x1", "--cpu_devices=1", "--max_rows=4", "--token_budget=32"),
    *("--kv_pages=80", "--ray_hosts=1"),
)
BODY = {"model": "demo", "prompt": "Once upon a time", "temperature": 0}
END_S = 90.0


@contextmanager
def served(address: str, *, folder: Path) -> Iterator[int]:
    """Runs the example as its first line says; the port of Serve's proxy."""
    port, settings = free_port(), folder / "serve.json"
    application = {
        "name": "mell",
        "import_path": "ray_serve:application",
        "args": {"flags": " ".join(FLAGS)},
    }
    settings.write_text(
        json.dumps({"http_options": {"port": port}, "applications": [application]})
    )
    with (folder / "log").open("w") as log:
        command = Path(sys.executable).with_name("serve")
        serve = subprocess.Popen(
            [command, "run", f"--address={address}", settings],
            cwd=EXAMPLES,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            until("Serve answers", lambda: answers(port), most_s=START_S)
            yield port
            serve.send_signal(signal.SIGINT)
            assert serve.wait(END_S) == 0, "serve run"
        except BaseException:
            print((folder / "log").read_text()[-8000:], file=sys.stderr)
            raise
        finally:
            serve.kill()
            serve.wait()


def ask(port: int, path: str, body: object = None) -> tuple[int, str]:
    """The status and the text of an answer."""
    connection = begun(port, path, body)
    try:
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def begun(port: int, path: str, body: object) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    if body is None:
        connection.request("GET", path)
    else:
        kind = {"content-type": "application/json"}
        connection.request("POST", path, json.dumps(body), kind)
    return connection


def answers(port: int) -> bool:
    try:
        return ask(port, "/v1/models")[0] == http.client.OK
    except (OSError, http.client.HTTPException):
        return False


def running(port: int) -> float:
    return sum(
        float(line.split()[-1])
        for line in ask(port, "/metrics")[1].splitlines()
        if line.startswith("mell:num_requests_running")
    )


def check(port: int) -> None:
    body = {**BODY, "max_tokens": 20}
    status, whole = ask(port, "/v1/completions", body)
    assert status == http.client.OK, whole
    text = json.loads(whole)["choices"][0]["text"]
    status, events = ask(port, "/v1/completions?x=1", {**body, "stream": True})
    told = [line.removeprefix("data: ") for line in events.splitlines() if line]
    assert told.pop() == "[DONE]", events
    assert "".join(json.loads(one)["choices"][0]["text"] for one in told) == text
    status, error = ask(port, "/v1/completions", {"model": "demo"})
    assert (status, "prompt" in error) == (http.client.BAD_REQUEST, True), error


def check_leaving(port: int) -> None:
    """A client goes away; the request has hundreds of tokens to go."""
    body = {**BODY, "max_tokens": 900, "ignore_eos": True, "stream": True}
    connection = begun(port, "/v1/completions", body)
    answer = connection.getresponse()
    answer.readline()
    until("it runs", lambda: running(port) == 1)
    answer.close()
    connection.close()
    until("the request has ended", lambda: running(port) == 0)


def main() -> int:
    with own_files(prefix="ms") as folder, reaped():
        with (
            nodes(folder, count=2) as (address, _),
            served(address, folder=folder) as port,
        ):
            check(port)
            check_leaving(port)
            before = below("mell_jax.launch")
            (replica,) = below("ServeReplica")
            os.kill(replica, signal.SIGKILL)
            until("its fleet has ended", lambda: not living(before))
            until("another answers", lambda: answers(port), most_s=START_S)
            check(port)
            after = below("mell_jax.launch")
        until("nothing of mell is left", lambda: not living(after))
    return 0


if __name__ == "__main__":
    sys.exit(main())
