import dataclasses

import pytest
from tqdm import tqdm

from benchmarks.fleet.downtime import measure_downtime
from benchmarks.fleet.migration import MigrationSettings, measure_all, render
from benchmarks.fleet.transfer import measure_transfer


def test_every_part_is_measured_and_shown(harness, tiny_engine):
    settings = MigrationSettings(
        engine=tiny_engine,
        instances=3,
        rows=1,
        lengths=(20, 60),
        moves=3,
        segment_s=0.05,
        transfer_bytes=2**14,
        steps=5,
        repeats=1,
        idle_s=0.1,
    )
    result = measure_all(harness, harness, settings, bar=tqdm(disable=True))
    assert [down.moves for down in result.downtimes] == [3, 3]
    assert result.compilations == 0
    assert result.driving.python_ms > 0.0
    assert result.disturbance.still_tokens_per_s > 0.0
    text = render(result)
    assert "ratio of the bare copy" in text
    assert "% of a core" in text


@pytest.mark.parametrize("tokens", [20, 60])
def test_a_move_costs_a_request_one_step_whatever_its_length(harness, tokens):
    down = measure_downtime(harness, tokens=tokens, moves=4, instances=2, seed=0)
    assert down.steps.median == 2.0  # the next token comes two steps later, not one


def test_a_transfer_takes_what_the_pool_has(harness):
    transfer = measure_transfer(harness, size_bytes=2**40, repeats=1)
    assert transfer.pages == harness.spec.capacity_pages
    assert transfer.is_one_device
    assert transfer.whole_ms > 0.0


@pytest.mark.parametrize(
    "wrong", [{"moves": 0}, {"instances": 1}, {"lengths": ()}, {"idle_s": 0.0}]
)
def test_settings_out_of_range_are_refused(wrong, tiny_engine):
    settings = MigrationSettings(engine=tiny_engine)
    with pytest.raises(ValueError, match="must be"):
        dataclasses.replace(settings, **wrong)
