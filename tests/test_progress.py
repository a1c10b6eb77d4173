"""Progress is lines where there is no terminal: at the start, and now and then."""

import logging
import threading

import pytest

from mell_jax.events import PROGRESS_LOGGER_NAME
from mell_jax.progress import Progress


class Heard(logging.Handler):
    """Lets a test wait for lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.came = threading.Semaphore(0)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.came.release()


@pytest.fixture
def heard() -> "Heard":
    return Heard()


@pytest.fixture
def log(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> Heard:
    logger = logging.getLogger(PROGRESS_LOGGER_NAME)
    monkeypatch.setattr(logger, "handlers", [heard])
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    return heard


def test_a_line_comes_at_the_start_and_while_nothing_gets_done(log: Heard) -> None:
    with Progress(
        "compiling", total=12, unit="steps", has_bar=False, line_s=0.01
    ) as progress:
        assert log.lines == ["compiling: 0 of 12 steps"]
        progress.advance(3)
        while log.lines[-1] != "compiling: 3 of 12 steps":
            assert log.came.acquire(timeout=20)
        for _ in range(3):
            assert log.came.acquire(timeout=20)
    count = len(log.lines)
    assert count == len(log.lines)
    names = {thread.name for thread in threading.enumerate()}
    assert "mell-progress" not in names


@pytest.mark.parametrize(
    ("total", "done", "text"),
    [
        (16_060_522_240, 1_200_000_000, "1.2 of 16.1 GB"),
        (175_232, 87_000, "87.0 of 175.2 kB"),
        (12, 3, "3.0 of 12.0 B"),
    ],
)
def test_bytes_are_counted_in_large_units(
    log: Heard, total: int, done: int, text: str
) -> None:
    progress = Progress("loading weights", total=total, unit="B", has_bar=False)
    progress.advance(done)
    with progress:
        pass
    assert log.lines == [f"loading weights: {text}"]


def test_a_bar_tells_no_lines(log: Heard, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("compiling", total=2, unit="steps", has_bar=True) as progress:
        progress.advance(note="first")
    assert log.lines == []
    assert "compiling" in capsys.readouterr().err


def test_a_library_hears_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("compiling", total=2, unit="steps", has_bar=False) as progress:
        names = {thread.name for thread in threading.enumerate()}
        assert "mell-progress" not in names
        progress.advance()
    assert capsys.readouterr().err == ""
