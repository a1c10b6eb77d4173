import sys

import numpy as np
import pytest

from benchmarks.engine.side_process import (
    TRANSFORMERS,
    SideKind,
    SideMissingError,
    SideProcess,
    start_side,
)
from tests.benchmarks.engine.echo import ECHO, echo_kind


def start(tmp_path, script: str) -> SideProcess:
    return SideProcess(
        echo_kind(tmp_path, script=script),
        python=sys.executable,
        directory=tmp_path,
        threads=2,
    )


def python_with(tmp_path, modules: dict[str, str]) -> str:
    """A Python that finds these modules first."""
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python)


def test_answers_become_runs(tmp_path):
    with start(tmp_path, ECHO) as side:
        assert side.versions == {"echo": "2"}
        prompts = [np.array([7, 8], np.int32), np.array([9, 8], np.int32)]
        run = side.generate(prompts, new_tokens=3, attention="plain")
    assert (run.batch, run.prompt_tokens) == (2, 2)
    assert [step.time_s for step in run.steps] == [0.5, 1.0, 1.5]
    assert run.steps[0].rows == (0, 1)
    assert run.tokens == ((7, 7, 7), (9, 9, 9))


def test_a_python_that_does_not_exist_is_told(tmp_path):
    with pytest.raises(SideMissingError, match="no-such-python cannot be run"):
        SideProcess(
            TRANSFORMERS, python="no-such-python", directory=tmp_path, threads=1
        )


def test_a_program_that_is_none_is_told(tmp_path):
    python = tmp_path / "python"
    python.write_text("neither a script nor a binary")
    python.chmod(0o755)
    with pytest.raises(SideMissingError, match=r"cannot be run: .*format"):
        SideProcess(TRANSFORMERS, python=str(python), directory=tmp_path, threads=1)


def test_a_python_without_torch_is_told(tmp_path):
    python = python_with(tmp_path, {"torch": "raise ImportError('no torch here')"})
    with pytest.raises(SideMissingError, match="no torch here"):
        SideProcess(TRANSFORMERS, python=python, directory=tmp_path, threads=1)


def test_a_process_that_dies_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="process of echo ended with 3"):
        start(tmp_path, "raise SystemExit(3)")


def test_a_side_that_starts_is_shown_with_its_versions(tmp_path):
    kind = echo_kind(tmp_path)
    side, note = start_side(kind, python=sys.executable, directory=tmp_path, threads=2)
    side.close()
    assert note == "echo: echo 2, greedy, static batch"


@pytest.mark.parametrize(
    ("python", "note"),
    [
        ("", "echo: left out; give --echo_python=PYTHON, one that has a voice"),
        (
            "no-such-python",
            "echo: left out, no-such-python cannot be run: there is no such program; "
            "give --echo_python=PYTHON, one that has a voice",
        ),
    ],
)
def test_a_side_that_is_left_out_is_told(tmp_path, python, note):
    kind: SideKind = echo_kind(tmp_path)
    started = start_side(kind, python=python, directory=tmp_path, threads=1)
    assert started == (None, note)
