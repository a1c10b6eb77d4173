"""Bad content stays with its owner, and nothing compiles once the engine is ready."""

import jax
import jax.numpy as jnp
import numpy as np

from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import Abort, FinishReason, Handle
from mell_jax.engine.params import SamplingParams
from mell_jax.worker.compilation import CompilationCounter
from tests.toy import (
    GREEDY,
    ONE,
    Transcript,
    expected,
    generate,
    only,
    run,
    submit,
    toy_engine,
)

VALUES = 1


def plant_nan(engine: Fleet, pages: np.ndarray, *, what: int | None = None) -> None:
    """Fills `pages` with NaN, keys and values or one of them."""
    which = slice(None) if what is None else slice(what, None, 2)

    def change(pool: jax.Array) -> jax.Array:
        changed = np.array(pool)
        changed[pages, which] = np.nan  # [P, 2L, KS, H]
        return jnp.asarray(changed)

    only(engine).worker.replace_pool(change)


def pages_of(engine: Fleet, handle: int) -> np.ndarray:
    request = engine.conductor.requests[Handle(handle)]
    (serial,) = (s for s, r in engine.instances[ONE].requests.items() if r == request)
    return only(engine).sequences.pages_of(serial)


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens)


def test_nan_in_unused_pages_changes_nothing() -> None:
    engine = toy_engine()
    generate(engine, [[1]], params=greedy(1))  # opens the instance
    plant_nan(engine, np.arange(65))  # the scratch page too
    prompts = [[n + 1] * (n * 9 + 1) for n in range(9)]
    got = generate(engine, prompts, params=greedy(40))
    assert got == [expected(prompt, count=40) for prompt in prompts]


def test_nan_in_pages_that_change_hands_changes_nothing() -> None:
    engine = toy_engine(num_pages=12)
    prompts = [[n + 1] * (n * 5 + 1) for n in range(12)]
    for handle, prompt in enumerate(prompts):
        submit(engine, prompt, handle=handle, params=greedy(50))
    seen = Transcript()
    while engine.has_work:
        seen.read(engine.step())
        cache = only(engine).batcher.cache
        plant_nan(engine, cache._pool.free_pages())
    assert engine.load().preemptions > 0
    for handle, prompt in enumerate(prompts):
        assert seen.tokens[handle] == expected(prompt, count=50)


def test_a_row_whose_logits_are_not_finite_ends_alone() -> None:
    engine = toy_engine()
    prompts = [[n + 1] * 20 for n in range(4)]
    for handle, prompt in enumerate(prompts):
        submit(engine, prompt, handle=handle, params=greedy(40))
    seen = Transcript()
    for _ in range(6):
        seen.read(engine.step())
    plant_nan(engine, pages_of(engine, 2)[1:], what=VALUES)  # 20 tokens: the second
    run(engine, transcript=seen)
    end = seen.finished[2]
    assert end.reason is FinishReason.ERROR
    assert end.message == "the model's logits for this sequence are not finite"
    count = len(seen.tokens[2])
    assert 0 < count < 40
    assert seen.tokens[2] == expected(prompts[2], count=count)
    for handle in (0, 1, 3):
        assert seen.tokens[handle] == expected(prompts[handle], count=40)
    # Its pages are not found: the same prompt is computed again and comes out right.
    submit(engine, prompts[2], handle=9, params=greedy(40))
    run(engine, transcript=seen)
    assert seen.prompts[9].cached_tokens == 0
    assert seen.tokens[9] == expected(prompts[2], count=40)
    assert engine.load().used_pages == 0


def test_a_bad_prompt_page_ends_all_who_share_it_and_is_forgotten() -> None:
    engine = toy_engine()
    prompt = list(range(40))
    for handle in range(3):
        submit(engine, prompt, handle=handle, params=greedy(40))
    submit(engine, [7], handle=3, params=greedy(40))
    seen = Transcript()
    for _ in range(8):
        seen.read(engine.step())
    plant_nan(engine, pages_of(engine, 0)[:1], what=VALUES)
    run(engine, transcript=seen)
    reasons = [seen.finished[handle].reason for handle in range(4)]
    assert reasons == [FinishReason.ERROR] * 3 + [FinishReason.LENGTH]
    assert seen.tokens[3] == expected([7], count=40)
    submit(engine, prompt, handle=4, params=greedy(5))
    run(engine, transcript=seen)
    assert seen.prompts[4].cached_tokens == 0
    assert seen.tokens[4] == expected(prompt, count=5)


def crowd(engine: Fleet) -> None:
    submit(engine, [1] * 40, handle=0, params=greedy(88))
    submit(engine, [2] * 36, handle=1, params=greedy(80))


def test_a_preempted_sequence_whose_last_token_is_bad_is_computed_again() -> None:
    probe, steps = toy_engine(num_pages=9), 0
    crowd(probe)
    while probe.load().preemptions == 0:
        probe.step()
        steps += 1
    engine, seen = toy_engine(num_pages=9), Transcript()
    crowd(engine)
    for _ in range(steps - 2):
        seen.read(engine.step())
    plant_nan(engine, pages_of(engine, 1)[:1], what=VALUES)
    seen.read(engine.step())
    seen.read(engine.step())  # preempts 1, whose token on its way is bad
    assert engine.load().preemptions == 1
    # The token is dropped, the pages go to 0, and 1 is computed again.
    run(engine, transcript=seen)
    assert engine.load().waiting == 0
    for handle, prompt, count in ((0, [1] * 40, 88), (1, [2] * 36, 80)):
        assert seen.finished[handle].reason is FinishReason.LENGTH
        assert seen.tokens[handle] == expected(prompt, count=count)


def everything() -> list[SamplingParams]:
    """Every feature, alone and mixed."""
    return [
        GREEDY,
        SamplingParams(max_tokens=20),
        SamplingParams(max_tokens=20, seed=-3, top_k=4, top_p=0.5, min_p=0.1),
        SamplingParams(max_tokens=20, presence_penalty=1.0, frequency_penalty=1.0),
        SamplingParams(max_tokens=20, repetition_penalty=1.5, logprobs=5),
        SamplingParams(max_tokens=20, logit_bias={1: 2.0, 2: -3.0}),
        SamplingParams(max_tokens=20, allowed_token_ids=tuple(range(90))),
        SamplingParams(max_tokens=20, min_tokens=9, stop_token_ids=(1, 2, 3)),
        SamplingParams(max_tokens=20, prompt_logprobs=5, temperature=0.0),
        SamplingParams(max_tokens=1, prompt_logprobs=0, logprobs=0),
    ]


def test_nothing_compiles_after_readiness() -> None:
    engine = toy_engine(num_pages=12, eos=(50,))
    counter = CompilationCounter()
    seen, handle = Transcript(), 0
    for length in (1, 2, 16, 17, 64, 100):
        for params in everything():
            submit(engine, [handle % 101] * length, handle=handle, params=params)
            submit(engine, [3] * length, handle=handle + 1, params=params, salt=b"x")
            handle += 2
            for _ in range(handle % 5):
                seen.read(engine.step())
        engine.abort(Abort(handles=(Handle(handle - 1), Handle(handle - 4))))
    submit(engine, [101], handle=handle, params=GREEDY)
    run(engine, transcript=seen)
    assert len(seen.finished) == handle + 1
    load = engine.load(compilations=counter.count)
    assert load.preemptions > 0 and load.prefix_hit_tokens > 0
    assert load.compilations == 0
