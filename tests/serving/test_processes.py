"""The server and the client as their users run them: processes, signals, pipes."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.serving import raw_http2
from tests.serving.fake_server import command, fake_server

ROOT = Path(__file__).parents[2]


def client(*args: str, lines: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mell_jax.client", *args],
        cwd=ROOT,
        input=lines,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module", params=[0, 1, 2])
def address(letters_dir: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    with fake_server(letters_dir, frontends=request.param) as server:
        yield server.address


def test_the_client_prints_the_answer(address: str) -> None:
    done = client(f"--address={address}", "--max_tokens=6", "c")
    assert (done.returncode, done.stdout) == (0, "cflxqc\n")


def test_the_client_ends_at_a_stop_string(address: str) -> None:
    done = client(f"--address={address}", "--stop=xq", "--stats", "c")
    assert (done.returncode, done.stdout) == (0, "cfl\n")
    assert re.fullmatch(r"\[3 characters in \d+\.\d\d s\]\n", done.stderr)


def test_without_a_prompt_the_client_asks_for_them(address: str) -> None:
    done = client(f"--address={address}", "--max_tokens=3", lines="a\n\nc\n")
    assert done.returncode == 0
    assert done.stdout == (
        "letters continues what you write. Ctrl-D leaves.\n> abd\n> > cfl\n> \n"
    )


def test_the_client_tells_what_the_server_refuses(address: str) -> None:
    done = client(f"--address={address}", "--temperature=-1", "c")
    assert done.returncode == 1
    assert done.stderr.startswith("INVALID_ARGUMENT: temperature must be")
    done = client(f"--address={address}", "--model=gpt", "c")
    assert done.stderr.startswith("NOT_FOUND: no model 'gpt' is served here")


def test_the_client_tells_when_there_is_no_server() -> None:
    done = client("--address=127.0.0.1:1", "--connect_s=0.3", "c")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("no server answers at 127.0.0.1:1; start one")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("frontends", [0, 2])
def test_a_signal_ends_the_server_in_order(
    letters_dir: Path, number: signal.Signals, frontends: int
) -> None:
    with fake_server(letters_dir, frontends=frontends) as server:
        server.process.send_signal(number)
        _, err = server.process.communicate(timeout=20)
        assert (server.process.returncode, err) == (0, "")


@pytest.mark.parametrize("frontends", [0, 1])
def test_last_words_of_a_client_are_not_written_by_grpc(
    letters_dir: Path, frontends: int
) -> None:
    goodbye = raw_http2.frame(7, body=b"\0\0\0\1\0\0\0\5\xf1" + b"\nnot ours\n" * 9)
    with fake_server(letters_dir, frontends=frontends) as server:
        with raw_http2.connected(server.address) as raw:
            raw.sendall(raw_http2.HELLO + goodbye)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65536):
                pass
        server.process.send_signal(signal.SIGTERM)
        assert server.process.communicate(timeout=20)[1] == ""


@pytest.mark.parametrize("frontends", [0, 1])
def test_a_taken_port_is_one_clear_line(
    letters_dir: Path, address: str, frontends: int
) -> None:
    port = address.rpartition(":")[2]
    done = subprocess.run(
        command(letters_dir, port=int(port), frontends=frontends),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("frontends", [0, 1, 2])
def test_health_and_metrics_end_with_the_server(
    letters_dir: Path, frontends: int
) -> None:
    with fake_server(letters_dir, frontends=frontends, http_port=0) as server:
        match = re.search(
            r"http://(\S+) has /v1 .*, /health and /metrics\. Look", server.said
        )
        assert match, server.said
        assert f" -m mell_jax.top --address={match[1]}\n" in server.said
        answer = httpx2.get(f"http://{match[1]}/health")
        assert (answer.status_code, answer.text) == (200, "ok\n")
        server.process.send_signal(signal.SIGTERM)
        _, err = server.process.communicate(timeout=20)
        assert (server.process.returncode, err) == (0, "")
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"http://{match[1]}/health")
