"""Every family on a fleet that moves everything all the time; windows above all."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from _pytest.mark import ParameterSet

from mell_jax.engine.build import build_engine
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet_view import MoveOutcome
from mell_jax.engine.params import SamplingParams
from mell_jax.scheduler.transfer import Mode
from tests.parity.tiny_models import (
    GREEDY_TOKENS,
    PROMPT_TOKENS,
    families,
    load_golden,
    prompt,
    write_hf,
)
from tests.toy import Transcript, generate, run, submit

GREEDY = SamplingParams(temperature=0.0, max_tokens=GREEDY_TOKENS)


ALWAYS = {("mistral", Mode.TOKENS), ("qwen2_window", Mode.KV)}
WINDOWED = ("mistral", "qwen2_window")


def _cases() -> list[ParameterSet]:
    """Families and ways to move; the slow tests have all."""
    return [
        pytest.param(
            (name, mode),
            marks=[] if (name, mode) in ALWAYS else [pytest.mark.slow],
            id=f"{name}-{mode.name}",
        )
        for name in sorted(families())
        for mode in (Mode if name in WINDOWED else [Mode.KV])
    ]


@pytest.fixture(scope="module", params=_cases())
def moving(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Fleet]]:
    """A fleet of two that sends each request to and fro, by pages or by tokens."""
    name, mode = request.param
    directory: Path = tmp_path_factory.mktemp(name)
    write_hf(directory, families()[name])
    config = EngineConfig(
        model=str(directory),
        instances=2,
        device_ids=(0, 0),
        max_rows=3,  # so that one instance is not enough
        decode_rows=(3,),
        token_budget=48,
        max_model_len=400,
        kv_pages=250,
    )
    fleet = FleetConfig(mode=mode, fault=Fault(move_every=7), policy="load_balance")
    yield name, build_engine(config, fleet=fleet).engine


def test_moved_streams_are_those_of_transformers(moving: tuple[str, Fleet]) -> None:
    name, engine = moving
    answers = generate(engine, [prompt(n) for n in PROMPT_TOKENS], params=GREEDY)
    for length, answer in zip(PROMPT_TOKENS, answers, strict=True):
        assert answer == load_golden(name).greedy[length].tolist()
    assert engine.stats().count(MoveOutcome.COMMITTED) > 2 * len(PROMPT_TOKENS)


def test_moves_carry_no_page_that_nobody_sees(moving: tuple[str, Fleet]) -> None:
    """A chunk has of a windowed group what its ring holds at most."""
    _, engine = moving
    stats, instance = engine.stats(), next(iter(engine.instances.values())).inner
    spec = instance.sequences.spec
    page_bytes = int(np.prod(instance.worker.pool.shape[1:])) * 4
    rings = sum(group.ring or 0 for group in spec.groups)
    full = sum(group.ring is None for group in spec.groups) * spec.pages(400)
    moves, chunks = sum(stats.begun.values()), stats.stages
    assert 0 < stats.sent_bytes <= (moves * full + chunks * rings) * page_bytes


def test_a_repeated_prompt_is_found_by_what_its_windows_see(tmp_path: Path) -> None:
    write_hf(tmp_path, families()["qwen2_window"])
    config = EngineConfig(
        model=str(tmp_path), max_rows=2, decode_rows=(2,), token_budget=48,
        max_model_len=400, kv_pages=250,
    )  # fmt: skip
    engine = build_engine(config).engine
    length = max(PROMPT_TOKENS)
    for cached in (0, length // 16 * 16):
        seen = Transcript()
        submit(engine, prompt(length), handle=1, params=GREEDY)
        run(engine, transcript=seen)
        expected = load_golden("qwen2_window").greedy[length].tolist()
        assert seen.tokens[1] == expected
        assert seen.prompts[1].cached_tokens == cached
