"""The demonstration: its load, its server, and that it ends as it should."""

import importlib.util
import random
import signal
import subprocess
import sys
import urllib.request
import webbrowser
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from mell_jax import launch

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "watch_fleet.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("watch_fleet", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["watch_fleet"] = module  # its dataclass looks there
    spec.loader.exec_module(module)
    return module


def test_a_crowd_comes_and_goes(example: ModuleType) -> None:
    period_s = example.PERIOD_S
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    open_streams = [example.wanted(100, at_s=share * period_s) for share in shares]
    assert open_streams == [12, 56, 100, 56, 12]


def test_every_request_fits_the_demo_model(example: ModuleType) -> None:
    rng = random.Random(1)
    drawn = [example.lengths(rng) for _ in range(2000)]
    assert min(drawn) >= 13 and max(drawn) == 120
    assert max(drawn) + 3 * max(drawn) <= 512


def test_mell_serve_takes_what_the_server_is_started_with(example: ModuleType) -> None:
    _, _, _, *flags = example.server_command(http_port=8123)
    values = launch.make_flags(has_hidden=False)
    assert values(["mell-serve", *flags])[1:] == []
    config = launch.make_config(launch.given_by(values))
    assert config.engines[0].instances == config.models.cpu_devices == 8
    assert config.server.http_port == 8123


def test_no_browser_is_opened_in_a_terminal(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    class Browser(webbrowser.BaseBrowser):
        def open(self, url: str, new: int = 0, autoraise: bool = True) -> bool:
            opened.append(f"{self.name} {url}")
            return True

    for name in ("w3m", "firefox"):
        monkeypatch.setattr(webbrowser, "get", lambda name=name: Browser(name))
        example.open_page("http://localhost/fleet")
    assert opened == ["firefox http://localhost/fleet"]

    def none_is_there() -> Browser:
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "get", none_is_there)
    example.open_page("http://localhost/fleet")
    assert len(opened) == 1


def test_a_server_that_does_not_start_is_told(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    command = [sys.executable, "-c", "print('no')"]
    monkeypatch.setattr(example, "server_command", lambda http_port: command)
    monkeypatch.setattr(sys, "argv", ["watch_fleet", "--no_browser"])
    assert example.main() == 1
    assert "the server did not start" in capfd.readouterr().err


@pytest.mark.slow
def test_it_shows_a_page_until_it_is_interrupted() -> None:
    with subprocess.Popen(
        [sys.executable, str(EXAMPLE), "--no_browser", "--streams=16"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        url = ""
        while not url.startswith("http"):
            url = program.stdout.readline().strip()
        with urllib.request.urlopen(f"{url}/events", timeout=30) as events:
            while b'"ticks":[' not in (line := events.readline()):
                assert line
        children = psutil.Process(program.pid).children(recursive=True)
        assert children
        program.send_signal(signal.SIGINT)
        assert program.wait(60) == 0
        assert program.stdout.read().endswith("\nended\n")
    assert psutil.wait_procs(children, timeout=10)[1] == []
