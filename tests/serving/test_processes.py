"""The server and the client as their users run them: processes, signals, pipes."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

ROOT = Path(__file__).parents[2]
FAKE_SERVER = (sys.executable, "-m", "tests.serving.fake_server")


@contextmanager
def server(
    directory: Path, *, port: int = 0, frontends: int = 1, context: int = 1000
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running server and its address."""
    process = subprocess.Popen(
        [*FAKE_SERVER, directory, str(port), "0", str(frontends), str(context)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready = "".join(process.stdout.readline() for _ in range(4))
        match = re.match(r"letters is served at (\S+), \d+\.\d s after", ready)
        assert match, ready + process.stderr.read()
        assert f" -m mell_jax.client --address={match[1]} " in ready
        yield process, match[1]
    finally:
        process.kill()
        process.communicate()


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
    with server(letters_dir, frontends=request.param) as (_, address):
        yield address


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
    with server(letters_dir, frontends=frontends) as (process, _):
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize("frontends", ["0", "1"])
def test_a_taken_port_is_one_clear_line(
    letters_dir: Path, address: str, frontends: str
) -> None:
    port = address.rpartition(":")[2]
    done = subprocess.run(
        [*FAKE_SERVER, letters_dir, port, "0", frontends, "1000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("frontends", ["0", "1", "2"])
def test_health_and_metrics_end_with_the_server(
    letters_dir: Path, frontends: str
) -> None:
    process = subprocess.Popen(
        [*FAKE_SERVER, letters_dir, "0", "0", frontends, "1000", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready = "".join(process.stdout.readline() for _ in range(8))
        match = re.search(
            r"http://(\S+) has /v1 .*, /health and /metrics\. Look", ready
        )
        assert match, ready
        assert f" -m mell_jax.top --address={match[1]}\n" in ready
        answer = httpx2.get(f"http://{match[1]}/health")
        assert (answer.status_code, answer.text) == (200, "ok\n")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"http://{match[1]}/health")
    finally:
        process.kill()
        process.communicate()
