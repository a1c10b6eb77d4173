"""An `LLM` whose weights change, that pauses and sleeps, under real threads."""

import threading
from collections.abc import Iterator

import jax
import pytest
from flax import nnx

from mell_jax import LLM, SamplingParams
from mell_jax.models.decoder import Decoder
from mell_jax.models.uniform import uniform_config
from mell_jax.worker.compilation import CompilationCounter

CONFIG = uniform_config(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=32,
    max_position_embeddings=512,
)
PROMPT = [5, 6, 7]
COUNT = 400
LONG = SamplingParams(temperature=0.0, max_tokens=COUNT)
SHORT = SamplingParams(temperature=0.0, max_tokens=20)


def module(seed: int) -> Decoder:
    return Decoder(CONFIG, rngs=nnx.Rngs(seed))


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    made = LLM.from_nnx(
        module(0),
        max_rows=4,
        decode_rows=(4,),
        token_budget=32,
        max_model_len=512,
        kv_pages=140,
        instances=2,
        device_ids=(0, 0),
    )
    with made as llm:
        yield llm


@pytest.fixture
def first_weights(llm: LLM) -> None:
    llm.update_weights(module(0), version="first")


def said(llm: LLM) -> tuple[int, ...]:
    (output,) = llm.generate([PROMPT], SHORT)
    return output.token_ids


@pytest.mark.usefixtures("first_weights")
def test_an_answer_tells_of_the_weights_that_changed_in_its_middle(llm: LLM) -> None:
    begun, tokens, ranges = threading.Event(), [], []

    def read() -> None:
        for delta in llm.stream(PROMPT, LONG):
            tokens.extend(delta.token_ids)
            ranges.extend(delta.weights_versions)
            begun.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert begun.wait(50)
    done = llm.update_weights(module(1), version="second")
    thread.join(50)
    assert (done.version, done.restarted, done.aborted) == ("second", 0, 0)
    assert llm.weights_version == "second"
    assert len(tokens) == COUNT
    assert [each.version for each in ranges[:1] + ranges[-1:]] == ["first", "second"]
    ends = [0, *(each.end for each in ranges)]
    assert ends == [*(each.first for each in ranges), COUNT]


@pytest.mark.usefixtures("first_weights")
def test_a_completion_has_its_versions(llm: LLM) -> None:
    (output,) = llm.generate([PROMPT], SHORT)
    (completion,) = output.completions
    assert completion.weights_version == "first"
    assert completion.weights_versions == (("first", 0, 20),)


@pytest.mark.usefixtures("first_weights")
def test_a_pause_holds_every_thread_and_no_answer_is_lost(llm: LLM) -> None:
    still = said(llm)
    assert not llm.is_paused
    llm.pause()
    answers: list[tuple[int, ...]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(said(llm))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    assert llm.is_paused
    assert not answers
    llm.pause("wait")  # nothing is open but in line
    llm.resume()
    for thread in threads:
        thread.join(50)
    assert answers == [still] * 4
    assert not llm.is_paused


@pytest.mark.usefixtures("first_weights")
def test_a_sleep_gives_memory_back_and_compiles_nothing(llm: LLM) -> None:
    still = said(llm)
    compilations = CompilationCounter()
    before = held_bytes()
    freed = llm.sleep(level=1)
    assert llm.is_sleeping
    assert freed >= 0.99 * (before - held_bytes()) > 0
    more = llm.sleep(level=2)
    parameters = jax.tree.leaves(nnx.state(module(0), nnx.Param))
    assert more - freed == sum(array.nbytes for array in parameters)
    llm.wake()
    assert not llm.is_sleeping
    assert said(llm) == still
    assert compilations.count == 0


@pytest.mark.usefixtures("first_weights")
def test_dropped_weights_come_from_an_update(llm: LLM) -> None:
    still = said(llm)
    llm.sleep(level=2, keeps="drop")
    with pytest.raises(RuntimeError, match="give new ones by an update"):
        llm.wake()
    llm.update_weights(module(0), version="back")
    llm.wake()
    assert said(llm) == still
    assert llm.weights_version == "back"


@pytest.mark.usefixtures("first_weights")
def test_updates_keep_nothing_and_compile_nothing(llm: LLM) -> None:
    modules = [module(seed) for seed in (1, 2)]
    llm.update_weights(modules[0])
    llm.update_weights(modules[0], streamed=True)
    before, compilations = held_bytes(), CompilationCounter()
    for number in range(6):
        llm.update_weights(modules[number % 2], streamed=number > 3)
    assert held_bytes() == before
    assert compilations.count == 0


@pytest.mark.usefixtures("first_weights")
def test_cached_pages_are_forgotten(llm: LLM) -> None:
    prompt = list(range(1, 50))
    llm.generate([prompt], SHORT)
    assert llm.generate([prompt], SHORT)[0].cached_tokens == 48
    assert llm.reset_prefix_cache() >= 3
    assert llm.generate([prompt], SHORT)[0].cached_tokens == 0


def held_bytes() -> int:
    return sum(array.nbytes for array in jax.live_arrays())
