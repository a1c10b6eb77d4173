"""The library under interrupts, forks and forgetting, and with arrays for lists."""

import gc
import os
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mell_jax import LLM, InvalidRequestError, SamplingParams

SMALL: dict[str, Any] = {
    "max_rows": 4,
    "decode_rows": (4,),
    "token_budget": 32,
    "max_model_len": 1024,
    "kv_pages": 300,
}
LONG = SamplingParams(max_tokens=900, ignore_eos=True, seed=1)
GREEDY = SamplingParams(temperature=0.0, max_tokens=4)
IDS = [0, 5, 6]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(**SMALL) as made:
        yield made


def wait_until(is_so: Callable[[], bool], *, most_s: float = 20.0) -> None:
    end_s = time.monotonic() + most_s
    while not is_so():
        assert time.monotonic() < end_s, "it never came about"
        time.sleep(0.01)


def interrupt_when(is_so: Callable[[], bool]) -> threading.Thread:
    """Sends what Ctrl-C sends, to the main thread, which runs the test."""

    def send() -> None:
        wait_until(is_so)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_an_interrupted_generate_leaves_nothing_running(llm: LLM) -> None:
    thread = interrupt_when(lambda: llm.load().running == 4)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["Once upon a time"] * 4, LONG)
    thread.join()
    wait_until(lambda: llm.load().running == 0, most_s=5.0)
    assert llm.generate(IDS, GREEDY)[0].token_ids


def test_an_interrupted_stream_raises_the_interrupt(llm: LLM) -> None:
    thread = interrupt_when(lambda: llm.load().running == 1)
    with pytest.raises(KeyboardInterrupt):
        for _ in llm.stream("Once upon a time", LONG):
            pass
    thread.join()
    wait_until(lambda: llm.load().running == 0, most_s=5.0)


def test_a_signal_handler_that_raises_counts_as_an_interrupt(llm: LLM) -> None:
    class TooLateError(Exception):
        pass

    def give_up(*_: object) -> None:
        raise TooLateError

    before = signal.signal(signal.SIGALRM, give_up)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(TooLateError):
            llm.generate(["Once upon a time"] * 4, LONG)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    wait_until(lambda: llm.load().running == 0, most_s=5.0)


def test_a_closed_one_says_so_and_leaves_no_coroutine() -> None:
    made = LLM(**SMALL)
    made.close()
    made.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="this LLM is closed: make a new one"):
            made.generate("x")
        with pytest.raises(RuntimeError, match="this LLM is closed"):
            list(made.stream("x"))
        gc.collect()


def test_forgetting_one_ends_its_threads_and_frees_its_engine() -> None:
    before = set(threading.enumerate())
    made = LLM(**SMALL)
    made.generate(IDS, GREEDY)
    engine = weakref.ref(made._engine)
    mine = set(threading.enumerate()) - before
    assert {thread.name for thread in mine} >= {"mell-llm", "mell-engine"}
    del made
    gc.collect()
    wait_until(lambda: not any(thread.is_alive() for thread in mine))
    gc.collect()
    assert engine() is None


def test_a_fork_is_told_and_does_not_hang(llm: LLM) -> None:
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jax warns of forks, rightly
        pid = os.fork()
    if pid == 0:  # the child: nothing of pytest may run here
        try:
            llm.generate("x")
        except RuntimeError as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    assert f"its threads did not come along to its fork {pid}" in said


@pytest.mark.parametrize(
    "prompt",
    [
        tuple(IDS),
        np.array(IDS),
        np.array(IDS, np.uint8),
        list(np.array(IDS)),
        jnp.array(IDS),
        [np.array(IDS)],
        np.array([IDS]),
        jnp.array([IDS]),
        (ids for ids in [IDS]),
        iter(IDS),
        [iter(IDS)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_row_of_ids_is_a_prompt(llm: LLM, prompt: Any) -> None:
    (output,) = llm.generate(prompt, GREEDY)
    assert output.token_ids == llm.generate(IDS, GREEDY)[0].token_ids


def test_texts_may_come_from_a_generator(llm: LLM) -> None:
    texts = ["Once upon a time", "The end"]
    made = [o.text for o in llm.generate((text for text in texts), GREEDY)]
    assert made == [o.text for o in llm.generate(texts, GREEDY)]


def test_rows_that_are_no_ids_are_refused(llm: LLM) -> None:
    for prompt in (np.array([0.5, 1.0]), np.array([[[1]]]), [[1, [2]]]):
        with pytest.raises(InvalidRequestError, match="prompt"):
            llm.generate(prompt, GREEDY)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "setting",
    [
        ("jax_transfer_guard", "disallow", "allow"),
        ("jax_debug_nans", True, False),
        ("jax_enable_x64", True, False),
    ],
    ids=lambda setting: setting[0],
)
def test_settings_of_the_program_around_it_change_nothing(
    llm: LLM, setting: tuple[str, Any, Any]
) -> None:
    name, value, before = setting
    want = llm.generate(IDS, LONG)[0].token_ids
    jax.config.update(name, value)
    try:
        assert llm.generate(IDS, LONG)[0].token_ids == want
    finally:
        jax.config.update(name, before)


@pytest.mark.parametrize("round_", range(3))
def test_closing_ends_what_other_threads_wait_for(round_: int) -> None:
    made = LLM(**SMALL)
    ended: list[str] = []

    def ask(number: int) -> None:
        try:
            if number % 2:
                made.generate(["Once"] * 2, LONG)
            else:
                list(made.stream("Once", LONG))
        except (RuntimeError, CancelledError) as error:
            ended.append(str(error))
        else:
            ended.append("")

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    wait_until(lambda: made.load().running > 0)
    time.sleep(0.05 * round_)
    made.close()
    for thread in threads:
        thread.join(10.0)
    assert not any(thread.is_alive() for thread in threads)
    assert len(ended) == 6


def test_one_is_made_whatever_the_program_has_set_before() -> None:
    jax.config.update("jax_transfer_guard", "disallow")
    try:
        with LLM(**SMALL) as made:
            asked = SamplingParams(temperature=0.0, max_tokens=2, prompt_logprobs=1)
            assert made.generate(IDS, asked)[0].prompt_logprobs is not None
    finally:
        jax.config.update("jax_transfer_guard", "allow")


def test_a_prompt_is_scored_alike_in_chunks_that_overlap() -> None:
    prompt = [5 + n % 200 for n in range(190)]
    asked = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1)
    scores = []
    for budget in (64, 200):  # one chunk a step; chunks of 128 from 0 and from 72
        with LLM(**{**SMALL, "token_budget": budget}) as made:
            found = made.generate(prompt, asked)[0].prompt_logprobs
            assert found is not None
            scores.append([one.logprob for one in found if one is not None])
    assert len(scores[0]) == len(prompt) - 1
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-3, atol=1e-4)
