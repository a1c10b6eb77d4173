import sys

import numpy as np
import pytest

from benchmarks.engine.torch_process import TorchMissingError, TorchProcess

ECHO = """
import json, sys
for text in sys.stdin:
    request = json.loads(text)
    if "load" in request:
        answer = {"versions": {"torch": str(request["threads"])}}
    else:
        new = request["new_tokens"]
        answer = {
            "times_s": [0.5 * (i + 1) for i in range(new)],
            "tokens": [prompt[:1] * new for prompt in request["prompts"]],
        }
    print(json.dumps(answer), flush=True)
"""


def start(tmp_path, script: str) -> TorchProcess:
    path = tmp_path / "side.py"
    path.write_text(script)
    return TorchProcess(
        python=sys.executable, directory=tmp_path, threads=2, script=path
    )


def test_answers_become_runs(tmp_path):
    with start(tmp_path, ECHO) as side:
        assert side.versions == {"torch": "2"}
        prompts = [np.array([7, 8], np.int32), np.array([9, 8], np.int32)]
        run = side.generate(prompts, new_tokens=3, attention="sdpa")
    assert (run.batch, run.prompt_tokens) == (2, 2)
    assert [step.time_s for step in run.steps] == [0.5, 1.0, 1.5]
    assert run.steps[0].rows == (0, 1)
    assert run.tokens == ((7, 7, 7), (9, 9, 9))


def test_a_python_that_does_not_exist_is_told(tmp_path):
    with pytest.raises(TorchMissingError, match="no-such-python cannot be run"):
        TorchProcess(python="no-such-python", directory=tmp_path, threads=1)


def test_a_python_without_torch_is_told(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with pytest.raises(TorchMissingError, match="no torch here"):
        TorchProcess(python=str(python), directory=tmp_path, threads=1)


def test_a_process_that_dies_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="ended with 3"):
        start(tmp_path, "raise SystemExit(3)")
