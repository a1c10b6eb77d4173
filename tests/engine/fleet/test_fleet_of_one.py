"""A fleet of one around the additive toy: every token is the sum of all before it."""

import pytest

from mell_jax.engine.build import build_engine
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet_view import GroupState
from mell_jax.engine.frames import Abort, FinishReason, Handle
from mell_jax.engine.params import SamplingParams
from mell_jax.worker.compilation import CompilationCounter
from tests.toy import Transcript, expected, generate, only, run, submit, toy_engine

TINY = 9  # pages with scratch: one sequence of 128 tokens fits


def greedy(max_tokens: int | None = None, **more) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, **more)


def assert_at_rest(engine: Fleet) -> None:
    load = engine.load()
    assert (load.running, load.waiting, load.used_pages) == (0, 0, 0)
    assert load.free_pages + load.cached_pages == engine.infos[0].num_pages - 1
    assert not engine.has_work and not only(engine).requests
    assert engine.conductor.is_at_rest
    assert not only(engine)._prompts._prompts
    assert engine.step() is None


def test_the_sum_doubles_with_every_token() -> None:
    engine = toy_engine()
    assert generate(engine, [[1, 2, 3]], params=greedy(6)) == [[6, 12, 24, 48, 96, 91]]
    assert_at_rest(engine)


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_prompts_of_every_length_run_together(prefix_cache: bool) -> None:
    engine = toy_engine(prefix_cache=prefix_cache)
    lengths = [1, 2, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 110]
    prompts = [[n % 7 + 1] * n for n in lengths]
    got = generate(engine, prompts, params=greedy(18))
    assert got == [expected(prompt, count=18) for prompt in prompts]
    assert_at_rest(engine)


@pytest.mark.parametrize("budget", [8, 9, 16, 33])
def test_a_prompt_longer_than_the_budget_goes_in_chunks(budget: int) -> None:
    engine = toy_engine(token_budget=budget)
    prompts = [list(range(100)), list(range(3)), list(range(34, 101))]
    got = generate(engine, prompts, params=greedy(10))
    assert got == [expected(prompt, count=10) for prompt in prompts]
    assert engine.load().steps >= 170 // budget


@pytest.mark.parametrize(
    ("length", "found"),
    [(1, 0), (16, 0), (17, 16), (32, 16), (33, 32), (48, 32), (60, 48)],
)
def test_cached_tokens_are_the_full_pages_before_the_last_token(
    length: int, found: int
) -> None:
    engine = toy_engine()
    prompt = list(range(60))
    generate(engine, [prompt], params=greedy(4))
    submit(engine, prompt[:length], handle=9, params=greedy(4))
    seen = run(engine)
    assert seen.prompts[9].cached_tokens == found
    assert seen.tokens[9] == expected(prompt[:length], count=4)
    load = engine.load()
    assert (load.prefix_hit_tokens, load.prefix_query_tokens) == (found, 60 + length)


def test_a_conversation_finds_what_was_generated_before() -> None:
    engine = toy_engine()
    prompt = list(range(20))
    answer = expected(prompt, count=30)
    assert generate(engine, [prompt], params=greedy(30)) == [answer]
    longer = prompt + answer + [5, 6]
    submit(engine, longer, handle=1, params=greedy(3))
    seen = run(engine)
    assert seen.prompts[1].cached_tokens == 48
    assert seen.tokens[1] == expected(longer, count=3)


def test_without_a_prefix_cache_nothing_is_found() -> None:
    engine = toy_engine(prefix_cache=False)
    prompt = list(range(60))
    generate(engine, [prompt], params=greedy(4))
    submit(engine, prompt, handle=9, params=greedy(4))
    assert run(engine).prompts[9].cached_tokens == 0
    assert engine.load().cached_pages == 0


def test_a_salt_keeps_prompts_apart() -> None:
    engine = toy_engine()
    for handle, salt in enumerate([b"a", b"b", b"a"]):
        submit(engine, range(40), handle=handle, params=greedy(4), salt=salt)
        seen = run(engine)
        assert seen.prompts[handle].cached_tokens == (32 if handle == 2 else 0)
        assert seen.tokens[handle] == expected(range(40), count=4)


def test_equal_prompts_share_their_pages() -> None:
    engine = toy_engine()
    prompt = list(range(50))
    for handle in range(8):
        submit(engine, prompt, handle=handle, params=greedy(30))
    seen, most = Transcript(), 0
    while engine.has_work:
        seen.read(engine.step())
        most = max(most, engine.load().used_pages)
    assert [seen.tokens[h] for h in range(8)] == [expected(prompt, count=30)] * 8
    assert [seen.prompts[h].cached_tokens for h in range(8)] == [0] + [48] * 7
    assert most == 3 + 8 * 2, "3 shared pages and 2 of each one's own"


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_tiny_pools_preempt_and_lose_nothing(prefix_cache: bool) -> None:
    engine = toy_engine(num_pages=TINY, prefix_cache=prefix_cache)
    prompts = [[n, n + 1] * (n + 4) for n in range(12)]
    got = generate(engine, prompts, params=greedy(90))
    assert got == [expected(prompt, count=90) for prompt in prompts]
    assert engine.load().preemptions > 0
    assert_at_rest(engine)


def test_a_preempted_sequence_says_once_how_much_was_cached() -> None:
    engine = toy_engine(num_pages=TINY)
    for handle in range(6):
        submit(engine, [handle] * 20, handle=handle, params=greedy(60))
    seen = run(engine)
    assert engine.load().preemptions > 0
    assert {h: p.cached_tokens for h, p in seen.prompts.items()} == dict.fromkeys(
        range(6), 0
    )


@pytest.mark.parametrize("max_tokens", [1, 2, 15, 16, 17])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 32])
def test_max_tokens_are_generated_and_not_one_more(
    length: int, max_tokens: int
) -> None:
    engine = toy_engine()
    submit(engine, [3] * length, handle=0, params=greedy(max_tokens))
    seen = run(engine)
    assert seen.tokens[0] == expected([3] * length, count=max_tokens)
    assert seen.finished[0].reason is FinishReason.LENGTH
    assert seen.finished[0].stop_token is None
    assert engine.load().generated_tokens == max_tokens


def test_generation_ends_with_the_context() -> None:
    engine = toy_engine()
    for handle, length in enumerate([126, 127, 100]):
        submit(engine, [1] * length, handle=handle, params=greedy())
    seen = run(engine)
    assert [len(seen.tokens[h]) for h in range(3)] == [2, 1, 28]
    assert seen.tokens[2] == expected([1] * 100, count=28)
    assert {end.reason for end in seen.finished.values()} == {FinishReason.LENGTH}


# From the prompt 1 2 3 come 6 12 24 48 96 91 81 61.
STOPS = {
    "eos": (greedy(8), [6, 12, 24], 24),
    "ignore_eos": (greedy(8, ignore_eos=True), [6, 12, 24, 48, 96, 91, 81, 61], None),
    "stop_id": (greedy(8, stop_token_ids=(12, 96)), [6, 12], 12),
    "stop_id_though_eos_is_ignored": (
        greedy(8, stop_token_ids=(96,), ignore_eos=True),
        [6, 12, 24, 48, 96],
        96,
    ),
    "stop_id_as_last_token": (greedy(2, stop_token_ids=(12,)), [6, 12], 12),
    "stop_id_as_first_token": (greedy(2, stop_token_ids=(6,)), [6], 6),
    # 24 may not come third: the lowest of the other tokens wins, all have logit 0.
    "min_tokens": (greedy(5, min_tokens=3), [6, 12, 0, 24], 24),
    "min_tokens_reached": (greedy(5, min_tokens=2), [6, 12, 24], 24),
    # The sum stays 24, and 24 stays barred.
    "min_tokens_bars_eos_though_ignored": (
        greedy(4, min_tokens=4, ignore_eos=True),
        [6, 12, 0, 0],
        None,
    ),
}


@pytest.mark.parametrize("name", STOPS)
def test_stop_tokens_end_a_sequence(name: str) -> None:
    params, tokens, stop_token = STOPS[name]
    engine = toy_engine(eos=(24,))
    submit(engine, [1, 2, 3], handle=0, params=params)
    submit(engine, [5], handle=1, params=greedy(20))  # keeps steps in flight
    seen = run(engine)
    assert seen.tokens[0] == tokens
    assert seen.finished[0].stop_token == stop_token
    want = FinishReason.LENGTH if stop_token is None else FinishReason.STOP
    assert seen.finished[0].reason is want
    assert seen.tokens[1] == expected([5], count=20)
    assert_at_rest(engine)


def test_a_surplus_row_of_an_ended_sequence_harms_nobody() -> None:
    engine = toy_engine(max_rows=1, eos=(24,))  # one slot: reused at once
    prompts = [[1, 2, 3], [4, 8], [12, 12], [10, 2]]
    got = generate(engine, prompts, params=greedy(4))
    assert got == [[6, 12, 24], [12, 24], [24], [12, 24]]
    assert engine.load().generated_tokens == 8
    assert_at_rest(engine)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7])
def test_an_abort_frees_the_pages_at_once(steps: int) -> None:
    engine = toy_engine(prefix_cache=False)
    submit(engine, [1] * 70, handle=0, params=greedy(30))  # two chunks
    submit(engine, [2] * 5, handle=1, params=greedy(30))
    seen = Transcript()
    for _ in range(steps):
        seen.read(engine.step())
    engine.abort(Abort(handles=(Handle(0), Handle(0), Handle(77))))
    engine.abort(Abort(handles=(Handle(0),)))
    assert engine.load().used_pages == (1 if steps > 1 else 0)
    run(engine, transcript=seen)
    assert seen.finished[0].reason is FinishReason.ABORT
    assert seen.tokens.get(0, []) == expected([1] * 70, count=max(0, steps - 2))
    assert seen.tokens[1] == expected([2] * 5, count=30)
    assert_at_rest(engine)


def test_aborting_everything_leaves_nothing() -> None:
    engine = toy_engine(num_pages=TINY)
    for handle in range(20):
        submit(engine, [handle] * 20, handle=handle, params=greedy(80))
    seen = Transcript()
    while engine.load().preemptions == 0:
        seen.read(engine.step())
    engine.abort(Abort(handles=tuple(Handle(h) for h in range(20))))
    assert engine.load().used_pages == 0
    run(engine, transcript=seen)
    assert {end.reason for end in seen.finished.values()} == {FinishReason.ABORT}
    assert len(seen.finished) == 20
    assert_at_rest(engine)


def test_a_handle_may_be_used_again_after_its_end() -> None:
    engine = toy_engine()
    submit(engine, [1, 1], handle=5, params=greedy(9))
    for _ in range(3):
        engine.step()
    engine.abort(Abort(handles=(Handle(5),)))
    submit(engine, [7], handle=5, params=greedy(3))
    frame = engine.step()
    assert frame is not None and frame.tokens.tolist() == []
    assert [end.reason for end in frame.finished] == [FinishReason.ABORT]
    assert run(engine).tokens[5] == [7, 14, 28]


def test_a_fleet_at_rest_sleeps_until_it_is_asked() -> None:
    engine = toy_engine()
    assert engine.idle_wait_s is None
    submit(engine, [1, 2], handle=0, params=greedy(9))
    assert engine.idle_wait_s is not None
    run(engine)
    assert len(engine.instances) == 1  # it keeps what it has cached
    assert engine.idle_wait_s is None


def test_a_fleet_of_one_has_no_links() -> None:
    built = build_engine(
        EngineConfig(max_rows=2, decode_rows=(2,), token_budget=16, max_model_len=64)
    )
    view = built.engine.load().fleet
    assert view is not None
    assert view.link_bytes_per_s == {}
    assert [instance.state for instance in view.instances] == [GroupState.PARKED]
    counter = CompilationCounter()
    assert (
        len(generate(built.engine, [[1, 2, 3]], params=greedy(40, ignore_eos=True))[0])
        == 40
    )
    assert counter.count == 0
