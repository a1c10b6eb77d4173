"""Sums of the tally: they begin at nothing and add up what they are told."""

from mell_jax.engine.fleet.tally import FleetTally
from mell_jax.engine.fleet_view import FleetStats
from mell_jax.engine.frames import EngineLoad


def load(times: int) -> EngineLoad:
    """The counts 1 to 5, so many times."""
    return EngineLoad(
        running=0,
        waiting=0,
        waiting_tokens=0,
        used_pages=0,
        cached_pages=0,
        free_pages=0,
        generated_tokens=1 * times,
        prefix_hit_tokens=2 * times,
        prefix_query_tokens=3 * times,
        preemptions=4 * times,
        steps=5 * times,
        compilations=0,
        phases=None,
    )


def sums(stats: FleetStats) -> tuple[float, ...]:
    return (
        stats.deferred,
        stats.violations,
        stats.sent_bytes,
        stats.stages,
        stats.activations,
        stats.activation_s,
        stats.parkings,
        stats.losses,
        stats.replays,
        stats.pauses,
        stats.preemptions,
    )


def test_nothing_has_happened_at_first() -> None:
    tally = FleetTally()
    stats = tally.stats()
    assert set(sums(stats)) == {0}
    assert (stats.begun, stats.ended, stats.carried) == ({}, {}, {})
    assert (stats.gap_steps.count, stats.gap_s.count, tally.under_way) == (0, 0, 0)
    assert set(load_of(tally)) == {0}


def load_of(tally: FleetTally) -> tuple[int, ...]:
    past = tally.past
    return (
        past.generated_tokens,
        past.prefix_hit_tokens,
        past.prefix_query_tokens,
        past.preemptions,
        past.steps,
    )


def test_bytes_are_summed_and_empty_chunks_are_no_stages() -> None:
    tally = FleetTally()
    for nbytes in (100, 0, 1):
        tally.send(nbytes)
    stats = tally.stats()
    assert (stats.sent_bytes, stats.stages) == (101, 2)


def test_what_instances_counted_outlives_them() -> None:
    tally = FleetTally()
    tally.close(load(1))
    tally.close(load(10))
    assert load_of(tally) == (11, 22, 33, 44, 55)
    tally.lose(load(100))
    tally.lose(None)  # it was lost before it had an instance
    assert load_of(tally) == (111, 222, 333, 444, 555)
    stats = tally.stats()
    assert (stats.parkings, stats.losses) == (2, 2)
