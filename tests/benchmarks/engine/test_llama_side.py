import contextlib
import dataclasses

import pytest

from benchmarks.engine import llama_side
from benchmarks.engine.decode import Bench, DecodeSettings
from benchmarks.engine.harness import EngineHarness
from benchmarks.engine.llama_side import collect
from benchmarks.engine.side_process import LLAMA_CPP, SideMissingError, SideProcess
from mell_jax.engine.build import build_engine, demo_directory
from tests.benchmarks.engine.test_side_process import python_with

FAKE_LLAMA = """
__version__ = "9"

def get_system_info():
    return "CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | "
"""


@pytest.fixture
def llama_python(request) -> str:
    python = request.config.getoption("--llama_python")
    if python is None:
        pytest.skip("needs llama.cpp: give a Python that has it with --llama_python")
    return python


def chunk(time_s: float, row: int, text: str) -> tuple[float, dict]:
    return time_s, {"choices": [{"index": row, "text": text}]}


def test_a_step_ends_where_a_row_comes_again():
    chunks = [
        (0.1, None),
        chunk(1.0, 1, "t70"),
        chunk(1.1, 0, "t8"),
        chunk(2.0, 1, "t71"),
        chunk(2.1, 0, "t9"),
        chunk(2.2, 1, ""),  # the end of a row
        chunk(2.3, 0, ""),
    ]
    assert collect(chunks, batch=2, new_tokens=2) == {
        "steps": [(1.1, [1, 0]), (2.1, [1, 0])],
        "tokens": [[8, 9], [70, 71]],
    }


def test_a_row_that_starts_late_leaves_steps_that_are_not_full():
    chunks = [chunk(1.0, 0, "t1"), chunk(2.0, 0, "t2"), chunk(2.1, 1, "t3")]
    steps = collect([*chunks, chunk(3.0, 1, "t4")], batch=2, new_tokens=2)["steps"]
    assert steps == [(1.0, [0]), (2.1, [0, 1]), (3.0, [1])]


def test_an_error_of_the_server_is_one_here():
    with pytest.raises(RuntimeError, match=r"refused the batch: .*too long"):
        collect([(0.1, {"error": "too long"})], batch=1, new_tokens=1)


def test_a_row_without_all_its_tokens_is_an_error():
    with pytest.raises(RuntimeError, match=r"gave \[1, 0\] tokens, not 1 each"):
        collect([chunk(1.0, 0, "t5")], batch=2, new_tokens=1)


def test_a_python_without_llama_cpp_is_told(tmp_path, tiny_directory):
    python = python_with(tmp_path, {"xllamacpp": "raise ImportError('no llama here')"})
    with pytest.raises(SideMissingError, match="no llama here"):
        SideProcess(LLAMA_CPP, python=python, directory=tiny_directory, threads=1)


def test_a_model_that_is_no_llama_is_told(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    modules = {"xllamacpp": FAKE_LLAMA, "gguf": ""}
    python = python_with(tmp_path, modules)
    with pytest.raises(SideMissingError, match=r"only LlamaForCausalLM .*Qwen3"):
        SideProcess(LLAMA_CPP, python=python, directory=tmp_path, threads=1)


def test_it_says_for_which_cpu_the_program_was_built(
    tmp_path, tiny_directory, monkeypatch
):
    (tmp_path / "xllamacpp.py").write_text(FAKE_LLAMA)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(llama_side, "write_gguf", lambda *_, path: None)
    with contextlib.closing(llama_side.LlamaSide(str(tiny_directory), 1)) as side:
        versions = side.versions()
    assert versions == {"xllamacpp": "9", "built-for": "SSE3,AVX2"}


@pytest.fixture(scope="module")
def demo_harness(tiny_engine) -> EngineHarness:
    """The demo model has learned to look back: random weights hardly do."""
    engine = dataclasses.replace(tiny_engine, model=str(demo_directory()))
    return EngineHarness(build_engine(engine))


@pytest.mark.parametrize(("attention", "least"), [("plain", 0.95), ("flash", 0.6)])
def test_llama_cpp_chooses_the_tokens_of_the_engine(
    llama_python, demo_harness, tiny_engine, attention, least
):
    """A few differ, since it rounds keys and values to float16, and so on.

    With the rotary angles of other rows nineteen in twenty do.
    """
    settings = DecodeSettings(
        engine=tiny_engine, prompt_tokens=90, new_tokens=32, repeats=2
    )
    kind = dataclasses.replace(LLAMA_CPP, attentions=(attention,))
    with SideProcess(
        kind, python=llama_python, directory=demo_directory(), threads=2
    ) as side:
        bench = Bench(demo_harness, (side,), settings=settings, vocab_size=1024)
        result = bench.measure(4, on_turn=lambda: None).sides["llama.cpp"]
    assert result.attention == attention
    assert result.equal_tokens >= least
    assert result.speeds.decode > 0.0
