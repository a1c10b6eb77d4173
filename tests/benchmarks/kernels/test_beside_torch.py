"""The rivals compute what they should; their speed needs a GPU."""

import importlib.util
import sys
from pathlib import Path

import pytest

from benchmarks.kernels import beside_torch
from benchmarks.kernels.beside_torch import RIVALS, torch_seconds
from benchmarks.kernels.timing import Load
from benchmarks.kernels.torch_side import METHODS, make_problem

SMALL = Load(rows=2, context=256)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_plain_attention(method: str) -> None:
    torch = pytest.importorskip("torch")
    if method == "transformers":
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"rows": 3, "context": 256, "kv_heads": 2, "group": 3, "head": 32}
    problem = make_problem(sizes, device="cpu", dtype=torch.float32)
    with torch.inference_mode():
        call = METHODS[method](problem, is_compiled=False)
        for turn, pair in enumerate(problem.pairs):
            k, v = (x.repeat_interleave(3, dim=1) for x in pair)
            weights = (problem.q @ k.mT / 32**0.5).softmax(dim=-1)
            torch.testing.assert_close(call(turn), weights @ v, rtol=0, atol=1e-5)


def test_every_rival_has_its_method() -> None:
    assert sorted(RIVALS.values()) == sorted(METHODS)


def script(folder: Path, text: str) -> Path:
    path = folder / "side.py"
    path.write_text(text)
    return path


def test_a_rival_that_cannot_run_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="left out: --torch_python is empty"):
        torch_seconds("", SMALL, method="sdpa")
    with pytest.raises(RuntimeError, match=r"torch: .*no/such/python"):
        torch_seconds("/no/such/python", SMALL, method="sdpa")
    failing = script(tmp_path, "raise ValueError('too large')")
    monkeypatch.setattr(beside_torch, "SCRIPT", failing)
    with pytest.raises(RuntimeError, match="torch: ValueError: too large"):
        torch_seconds(sys.executable, SMALL, method="sdpa")


def test_an_answer_is_read_from_the_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
import json, sys
sizes = json.loads(sys.argv[1])
assert sizes == {"method": "flex", "rows": 2, "context": 256, "kv_heads": 8,
                 "group": 4, "head": 128, "repeats": 3}, sizes
print("autotuning")
print(json.dumps({"seconds": 0.25}))
"""
    monkeypatch.setattr(beside_torch, "SCRIPT", script(tmp_path, text))
    got = torch_seconds(sys.executable, SMALL, method="flex", repeats=3)
    assert got == 0.25


def test_a_torch_without_cuda_is_left_out_clearly() -> None:
    if importlib.util.find_spec("torch") is None:
        message = "left out: No module named 'torch'"
    else:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this torch has CUDA")
        message = r"left out: torch .* sees no CUDA device"
    with pytest.raises(RuntimeError, match=message):
        torch_seconds(sys.executable, SMALL, method="sdpa")
