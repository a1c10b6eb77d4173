"""Steps of one instance, token by token: what `Stepper` does in one go, done slowly."""

from dataclasses import dataclass

from mell_jax.scheduler.simulator.settings import Settings

Asked = list[tuple[float, int, int]]
"""Arrival in seconds, tokens given, tokens to make; of every request, in order."""


@dataclass(slots=True, kw_only=True)
class _Life:
    arrived_s: float
    given: int
    made: int
    computed: int = 0
    done: int = 0
    first_s: float = 0.0
    ended_s: float = 0.0


def make_steps(asked: Asked, *, settings: Settings) -> list[tuple[float, float]]:
    """Returns when each request has its first and its last token.

    There is one instance with room for all.
    """
    lives = [_Life(arrived_s=at, given=given, made=made) for at, given, made in asked]
    now_s = planned_s = 0.0
    while any(life.done < life.made for life in lives):
        here = _open(lives, planned_s) or _open(lives, now_s)
        if not here:
            now_s = min(r.arrived_s for r in lives if r.arrived_s > now_s)
            continue
        assert settings.steps is not None
        began_s = now_s
        rows = [r for r in here if r.computed == r.given]
        chunks = _chunks(here, len(rows), settings)
        now_s += _takes_s(rows, chunks, settings)
        for row in rows:
            row.done += 1
        for life, tokens in chunks:
            life.computed += tokens
            if life.computed == life.given:
                life.first_s, life.done = now_s, 1
        for life in here:
            if life.done == life.made:
                life.ended_s = now_s
        planned_s = began_s if settings.steps.plans_ahead else now_s
    return [(life.first_s, life.ended_s) for life in lives]


def _open(lives: list[_Life], now_s: float) -> list[_Life]:
    return [r for r in lives if r.arrived_s <= now_s and r.done < r.made]


def _chunks(
    here: list[_Life], rows: int, settings: Settings
) -> list[tuple[_Life, int]]:
    assert settings.steps is not None
    left = max(0, settings.steps.token_budget - rows)
    chunks = []
    for life in here:
        tokens = min(life.given - life.computed, left)
        left -= tokens
        if tokens:
            chunks.append((life, tokens))
    return chunks


def _takes_s(
    rows: list[_Life], chunks: list[tuple[_Life, int]], settings: Settings
) -> float:
    assert settings.steps is not None
    speed, time, page = settings.steps, settings.step_time, settings.page_tokens
    takes_s = time.fixed_s
    for row in rows:
        last = min(row.done + 1, row.made)  # for which a page is there
        takes_s += time.row_s + time.page_s * -(-(row.given + last) // page)
    for life, tokens in chunks:
        for at in range(life.computed, life.computed + tokens):
            takes_s += speed.prefill_token_s + speed.prefill_pair_s * (at + 1) / 1e3
    return takes_s
