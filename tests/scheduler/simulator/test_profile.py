"""A profile: its arithmetic by hand, read as it was written, refused by its rules."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.scheduler.placement.model import StepTime
from mell_jax.scheduler.simulator.profile import (
    Profile,
    profile_of,
    read_profile,
    write_profile,
)

TINY = Profile(
    name="tiny",
    step_time=StepTime(fixed_s=0.5, row_s=0.25, page_s=0.125),
    prefill_token_s=0.25,
    prefill_pair_s=500.0,
    token_budget=8,
    max_rows=4,
    capacity_tokens=100,
    page_tokens=10,
    kv_bytes_per_token=4,
    load_s=3.0,
    link_bytes_per_s=100.0,
)


def test_a_step_has_a_part_for_itself_for_rows_and_for_pages() -> None:
    assert TINY.decode_s(rows=2, pages=6) == 0.5 + 2 * 0.25 + 6 * 0.125


def test_a_chunk_adds_its_tokens_and_what_each_of_them_sees() -> None:
    # the tokens 4 and 5 (from 0) see 5 and 6 tokens: 11 pairs, 0.5 s each
    assert TINY.prefill_s(start=4, tokens=2) == 2 * 0.25 + 11 * 0.5


@given(cut=st.integers(0, 50), whole=st.integers(0, 50))
def test_a_prompt_costs_the_same_in_one_chunk_and_in_two(cut: int, whole: int) -> None:
    first = min(cut, whole)
    parts = TINY.prefill_s(start=0, tokens=first) + TINY.prefill_s(
        start=first, tokens=whole - first
    )
    assert parts == TINY.prefill_s(start=0, tokens=whole)


@pytest.mark.parametrize("link_bytes_per_s", [100.0, math.inf])
def test_a_profile_is_read_as_it_was_written(
    tmp_path: Path, link_bytes_per_s: float
) -> None:
    path = tmp_path / "profile.json"
    profile = dataclasses.replace(TINY, link_bytes_per_s=link_bytes_per_s)
    write_profile(path, profile=profile)
    assert read_profile(path) == profile
    assert "Infinity" not in path.read_text()


def content(**changed: Any) -> dict[str, Any]:
    return dataclasses.asdict(TINY) | changed


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"name": ""}, "name must be a text"),
        ({"max_rows": 0}, "max_rows of a profile must be a whole number >= 1, got 0"),
        ({"token_budget": 1.5}, "must be a whole number >= 1, got 1.5"),
        ({"page_tokens": True}, "must be a whole number >= 1, got True"),
        ({"page_tokens": 101}, "do not hold a page of 101 tokens"),
        ({"load_s": -1}, "load_s of a profile must be seconds, finite and >= 0"),
        ({"prefill_token_s": math.nan}, "must be seconds, finite and >= 0, got nan"),
        ({"prefill_pair_s": "x"}, "must be seconds, finite and >= 0, got 'x'"),
        ({"link_bytes_per_s": 0}, "link_bytes_per_s of a profile must be > 0"),
        ({"step_time": {}}, "step_time of a profile must not be 0"),
        ({"step_time": {"fixed_s": "x"}}, "fixed_s of step_time must be seconds"),
        ({"step_time": {"fixed_s": -1}}, "fixed_s must be finite and not negative"),
        ({"step_time": {"rows": 1}}, r"a step_time has no \['rows'\]"),
        ({"step_time": 3}, "a step_time is an object with"),
        ({"speed": 3}, r"a profile has no \['speed'\]; it has"),
    ],
)
def test_what_breaks_a_rule_is_refused(changed: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        profile_of(content(**changed))


def test_a_file_that_is_no_profile_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    for text, rule in [
        (b"{", "is not JSON"),
        (b"\xff", "is not text"),
        (b"[]", "a profile is an object with"),
        (json.dumps({"name": "x"}).encode(), r"a profile lacks \['capacity_tokens'"),
    ]:
        path.write_bytes(text)
        with pytest.raises(ValueError, match=f"profile.json.*{rule}"):
            read_profile(path)
