"""Programs end in order, whatever their threads do when they end."""

import subprocess
import sys

import pytest

MADE = """
import sys, threading, time
from mell_jax import LLM, SamplingParams
llm = LLM(max_rows=4, max_model_len=1024, kv_pages=300)
long = SamplingParams(max_tokens=900, ignore_eos=True)
"""
STREAMED = 'stream = llm.stream("Once upon a time", long); next(stream)\n'
THREADED = """
threading.Thread(target=llm.generate, args=(["x"] * 4, long), daemon=True).start()
while llm.load().running < 4:
    time.sleep(0.01)
"""
NATIVE = """
import threading, time
import jax, jax.numpy as jnp
from mell_jax.console import leave
ones = jnp.ones((2048, 2048))
many = jax.jit(lambda x: jax.lax.fori_loop(0, 20, lambda _, y: y @ x, x))
threading.Thread(target=many(ones).block_until_ready, daemon=True).start()
time.sleep(0.2)
print("said", end="")
leave(3)
"""
HUNG = """
import threading
from mell_jax import llm as library
library.EXIT_S = 0.5
llm = library.LLM(max_rows=4, max_model_len=1024, kv_pages=300)
fleet = llm._engine._engine
fleet.step = lambda: threading.Event().wait()
threading.Thread(target=llm.generate, args=("x",), daemon=True).start()
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("work", [STREAMED, THREADED], ids=["streamed", "threaded"])
@pytest.mark.parametrize(
    "end",
    [
        pytest.param("", id="ends"),
        pytest.param("sys.exit(7)", id="exits", marks=pytest.mark.slow),
    ],
)
def test_a_program_that_closes_nothing_ends_in_order(work: str, end: str) -> None:
    ended = run(MADE + work + end)
    assert ended.returncode == (7 if end else 0), ended.stderr
    assert "Exception ignored" not in ended.stderr


def test_leaving_waits_for_no_thread_in_a_native_library() -> None:
    ended = run(NATIVE)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "said", "")


def test_a_step_that_hangs_does_not_hold_up_the_end() -> None:
    ended = run(HUNG)
    assert ended.returncode == 0, ended.stderr
