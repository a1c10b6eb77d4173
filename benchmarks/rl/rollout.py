"""Measures how fast a rollout is made, beside a plain `lax.scan` sampler.

Both have the same model, prompts and lengths of answers, draw at the same temperature
and give the log probability of each token. The sampler is compiled for this very batch:
its prompts are padded to the longest, and all rows are decoded until the longest answer
ends. Only tokens of answers count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax

from benchmarks.rl.clock import in_ms, ratio, seconds_of
from benchmarks.rl.scan_sampler import make_scan_sampler
from mell_jax.bench.stats import Summary, median, summarize
from mell_jax.bench.workload import Int32Array, LoadShape
from mell_jax.engine.params import SamplingParams
from mell_jax.llm import LLM
from mell_jax.models.decoder import Decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutResult:
    """A rollout took so long."""

    prompts: int
    prompt_tokens: Summary
    answer_tokens: Summary
    engine_ms: Summary
    scan_ms: Summary
    engine_tokens_per_s: float  # of answers
    scan_tokens_per_s: float
    ratio: float  # median over pairs


def measure_rollout(
    llm: LLM,
    decoder: Decoder,
    *,
    prompts: Sequence[Int32Array],
    shapes: Sequence[LoadShape],
    repeats: int,
) -> RolloutResult:
    """Makes the same rollout by the engine and by the sampler, in turns.

    Args:
      llm: serves `decoder`.
      prompts: as long as `shapes` say.
      shapes: lengths of prompts and answers.
      repeats: of both; a first one of each is not counted.
    """
    answers = [shape.output_tokens for shape in shapes]
    scan = make_scan_sampler(
        decoder,
        batch=len(prompts),
        prompt_tokens=max(map(len, prompts)),
        new_tokens=max(answers),
        temperature=1.0,
    )

    def by_scan(seed: int) -> None:
        jax.block_until_ready(scan(prompts, seed))

    def by_engine(seed: int) -> None:
        each = [
            SamplingParams(
                max_tokens=tokens,
                ignore_eos=True,
                seed=seed + row,
                logprobs=0,
                logprobs_mode="processed",
            )
            for row, tokens in enumerate(answers)
        ]
        outputs = llm.generate(prompts, each)
        made = [len(output.token_ids) for output in outputs]
        assert made == answers, f"answers have {made} tokens instead of {answers}"

    engine_s, scan_s = [], []
    for turn in range(repeats + 1):
        engine_s.append(seconds_of(partial(by_engine, turn)))
        scan_s.append(seconds_of(partial(by_scan, turn)))
    engine_s, scan_s = engine_s[1:], scan_s[1:]
    return RolloutResult(
        prompts=len(prompts),
        prompt_tokens=summarize([shape.input_tokens for shape in shapes]),
        answer_tokens=summarize(answers),
        engine_ms=in_ms(engine_s),
        scan_ms=in_ms(scan_s),
        engine_tokens_per_s=sum(answers) / median(engine_s),
        scan_tokens_per_s=sum(answers) / median(scan_s),
        ratio=ratio(scan_s, engine_s),
    )
