import json

import pytest

from benchmarks.__main__ import main
from benchmarks.engine.startup import StartupSettings, medians_of, render


def test_medians_are_of_the_parts_that_all_starts_have():
    starts = [
        {"import": 1.0, "load": 4.0, "mell_serve": 9.0},
        {"import": 3.0, "load": 2.0},
        {"import": 2.0, "load": 9.0},
    ]
    assert medians_of(starts) == {"import": 2.0, "load": 4.0}


def test_the_table_has_a_row_for_cold_and_one_for_warm():
    text = render({"cold": {"first_token": 1.5}, "warm": {"first_token": 0.25}})
    assert [line.split() for line in text.splitlines()] == [
        ["start", "first", "token"],
        ["cold", "1.500"],
        ["warm", "0.250"],
    ]


def test_at_least_one_start_is_needed():
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        StartupSettings(repeats=0)


@pytest.mark.slow
def test_a_start_is_measured_in_its_parts(tmp_path):
    path = tmp_path / "out.json"
    status = main(
        [
            "benchmarks",
            "--suite=startup",
            "--model=random:tiny",
            "--repeats=1",
            "--noprogress",
            f"--output_json={path}",
        ]
    )
    assert status == 0
    medians = json.loads(path.read_text())["results"]["medians_s"]
    assert medians["cold"]["compile"] > medians["warm"]["compile"] > 0.0
    assert medians["warm"]["process"] > medians["warm"]["import"] > 0.0
