"""Hundreds of random requests in a tiny pool: exact tokens and balanced books."""

from dataclasses import dataclass

import numpy as np
import pytest

from mell_jax.engine.frames import Abort, FinishReason, Handle
from mell_jax.engine.params import SamplingParams
from tests.toy import VOCAB, Transcript, expected, only, submit, toy_engine

EOS = 100
MAX_TOKENS = 128


@dataclass
class Job:
    prompt: list[int]
    params: SamplingParams
    is_aborted: bool = False

    def check(self, tokens: list[int], reason: FinishReason) -> None:
        params = self.params
        room = MAX_TOKENS - len(self.prompt)
        most = room if params.max_tokens is None else params.max_tokens
        assert len(tokens) <= most
        if reason is FinishReason.ABORT:
            assert self.is_aborted
        else:
            ends = {*params.stop_token_ids} | (set() if params.ignore_eos else {EOS})
            is_stop = bool(tokens) and tokens[-1] in ends
            assert reason is (FinishReason.STOP if is_stop else FinishReason.LENGTH)
            assert is_stop or len(tokens) == most
            assert not ends & set(tokens[:-1])
        if params.is_greedy:
            assert tokens == expected(self.prompt, count=len(tokens))
        if params.allowed_token_ids is not None:
            assert set(tokens) <= set(params.allowed_token_ids)


def random_job(rng: np.random.Generator, *, common: list[int]) -> Job:
    length = int(rng.integers(1, rng.integers(2, 120)))
    prompt = rng.integers(0, VOCAB, length).tolist()
    if rng.random() < 0.4:
        shared = int(rng.integers(0, length + 1))
        prompt[:shared] = common[:shared]
    options: dict = {}
    if rng.random() < 0.8:
        options["max_tokens"] = int(rng.integers(1, MAX_TOKENS - length + 1))
    if rng.random() < 0.2:
        options["logprobs"] = 2
    if rng.random() < 0.2:
        options["prompt_logprobs"] = 1
    if rng.random() < 0.2:
        options["ignore_eos"] = True
    if rng.random() < 0.2:
        options["stop_token_ids"] = tuple(rng.integers(0, VOCAB, 3).tolist())
    if rng.random() < 0.6:
        return Job(prompt, SamplingParams(temperature=0.0, **options))
    if rng.random() < 0.3:
        options["repetition_penalty"] = 1.5
    if rng.random() < 0.3:
        options["allowed_token_ids"] = tuple(rng.integers(0, VOCAB, 20).tolist())
    return Job(prompt, SamplingParams(top_k=int(rng.integers(0, 30)), **options))


@pytest.mark.parametrize(
    ("seed", "num_pages", "max_rows", "budget"),
    [(0, 9, 8, 16), (1, 14, 8, 64), (2, 9, 3, 3), (3, 16, 8, 9)],
)
def test_random_requests_get_exactly_their_tokens(
    seed: int, num_pages: int, max_rows: int, budget: int
) -> None:
    rng = np.random.default_rng(seed)
    engine = toy_engine(
        num_pages=num_pages, max_rows=max_rows, token_budget=budget, eos=(EOS,)
    )
    common = rng.integers(0, VOCAB, MAX_TOKENS).tolist()
    jobs = [random_job(rng, common=common) for _ in range(50)]
    seen, submitted = Transcript(), 0
    while submitted < len(jobs) or engine.has_work:
        for _ in range(int(rng.integers(0, 4))):
            if submitted < len(jobs):
                job = jobs[submitted]
                submit(engine, job.prompt, handle=submitted, params=job.params)
                submitted += 1
        if submitted and rng.random() < 0.02:
            handle = int(rng.integers(0, submitted))
            jobs[handle].is_aborted = True
            engine.abort(Abort(handles=(Handle(handle),)))
        seen.read(engine.step())
    for handle, job in enumerate(jobs):
        job.check(seen.tokens.get(handle, []), seen.finished[handle].reason)
        asked = job.params.prompt_logprobs is not None
        if handle in seen.prompts:
            assert (seen.prompts[handle].logprobs is not None) == asked
    load = engine.load()
    assert load.preemptions > 0
    assert (load.running, load.waiting, load.used_pages) == (0, 0, 0)
    assert load.generated_tokens == sum(map(len, seen.tokens.values()))
    only(engine).batcher.cache.clear()
    assert engine.load().free_pages == num_pages - 1
