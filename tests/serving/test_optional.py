"""What is optional does not keep a server from starting."""

import asyncio
import resource
import sys

import pytest

from mell_jax.serving import loop
from mell_jax.serving.address import allow_many_sockets


def test_an_event_loop_that_cannot_be_imported_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> str:
        return type(asyncio.get_running_loop()).__module__

    monkeypatch.setattr(loop, "find_spec", lambda _: object())
    monkeypatch.setitem(sys.modules, "uvloop", None)  # its import fails
    assert loop.run_loop(work()).startswith("asyncio.")
    (line,) = caplog.messages
    assert line.startswith("uvloop is installed and cannot be used: ")


def test_a_bound_on_files_that_cannot_be_raised_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    allow_many_sockets()
    (line,) = caplog.messages
    assert "current limit exceeds maximum limit" in line
