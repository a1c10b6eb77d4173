"""What links and instances can do, from what was timed."""

import logging
import math

import jax
import pytest

from mell_jax.engine.fleet import page_transfer
from mell_jax.engine.fleet.profile import (
    Profile,
    measure,
    slack_tokens_per_s,
    speeds_of,
)
from mell_jax.engine.fleet.transport import DevicePut
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.worker.timing import Timing
from tests.toy import toy_worker

A, B, C = DeviceGroupId(0), DeviceGroupId(1), DeviceGroupId(2)
TOY, OTHER = ModelId("toy"), ModelId("other")


def timing(prefill: int, took_s: float) -> Timing:
    return Timing(decode_rows=8, prefill_tokens=prefill, took_s=took_s)


def test_prefill_fits_a_share_of_the_time_that_is_decoded() -> None:
    # 0.25 s of prefill for each second of decoding: 0.2 s of each second, 4 chunks.
    slack = slack_tokens_per_s([timing(0, 0.01), timing(100, 0.06)], share=0.25)
    assert slack == pytest.approx(400.0)


def test_the_best_mixed_step_counts() -> None:
    timings = [timing(0, 0.01), timing(100, 0.06), timing(1000, 0.11)]
    assert slack_tokens_per_s(timings, share=0.25) == pytest.approx(2000.0)


def test_a_step_has_one_chunk_at_most() -> None:
    timings = [timing(0, 0.1), timing(10, 0.1)]
    assert slack_tokens_per_s(timings, share=0.25) == pytest.approx(100.0)


def test_without_mixed_steps_there_is_no_slack() -> None:
    assert slack_tokens_per_s([timing(0, 0.1)], share=0.25) == 0.0
    with pytest.raises(ValueError, match="share must be"):
        slack_tokens_per_s([timing(0, 0.1)], share=math.nan)


def test_pairs_beyond_the_cap_count_as_the_slowest_of_their_kind(caplog) -> None:
    kinds = {(A, B): "near", (B, A): "near", (A, C): "far", (C, A): "near"}
    speeds = {(A, B): 5.0, (B, A): 3.0, (A, C): 1.0, (C, A): 99.0}
    with caplog.at_level(logging.INFO, logger="absl"):
        found = speeds_of(kinds, measure=speeds.__getitem__, cap=2)
    assert found == {(A, B): 5.0, (B, A): 3.0, (A, C): 1.0, (C, A): 3.0}
    assert "3 of 4 links were measured" in caplog.text


def test_a_move_takes_part_of_both_ends_and_what_is_between() -> None:
    profile = Profile(
        bytes_per_s={(A, B): 10.0, (A, C): 30.0},
        prefill_tokens_per_s={(A, TOY): 1.0, (B, TOY): 2.0, (C, OTHER): 3.0},
    )
    assert profile.links(A, B) == ("0 out", "0 to 1", "1 in")
    assert profile.link_bytes(2.0) == {
        "0 out": 60.0,
        "0 to 1": 20.0,
        "0 to 2": 60.0,
        "1 in": 20.0,
        "2 in": 60.0,
    }
    assert profile.prefill_tokens(2.0) == {
        (A, TOY): 2.0,
        (B, TOY): 4.0,
        (C, OTHER): 6.0,
    }


def test_profiles_of_several_models_are_joined() -> None:
    first = Profile(
        bytes_per_s={(A, B): 10.0, (B, A): 30.0},
        prefill_tokens_per_s={(A, TOY): 1.0, (B, TOY): 2.0},
    )
    second = Profile(
        bytes_per_s={(A, B): 20.0, (B, A): 20.0},
        prefill_tokens_per_s={(A, OTHER): 3.0, (B, OTHER): 4.0},
    )
    assert Profile.joined([first, second]) == Profile(
        bytes_per_s={(A, B): 20.0, (B, A): 30.0},
        prefill_tokens_per_s={
            (A, TOY): 1.0,
            (B, TOY): 2.0,
            (A, OTHER): 3.0,
            (B, OTHER): 4.0,
        },
    )


def test_a_device_group_alone_has_a_profile_that_can_be_read() -> None:
    alone = Profile(bytes_per_s={}, prefill_tokens_per_s={(A, TOY): 2206.1})
    assert str(alone) == "0 links, prefill for moves of 2.21e+03 to 2.21e+03 tokens/s"


def test_an_unlimited_profile_knows_every_link() -> None:
    profile = Profile.unlimited([A, B], models=[TOY])
    assert profile.prefill_tokens_per_s == {(A, TOY): math.inf, (B, TOY): math.inf}
    assert profile.bytes_per_s == {(A, B): math.inf, (B, A): math.inf}


def test_workers_are_measured_where_they_are() -> None:
    workers = {
        device: toy_worker(num_pages=65, max_rows=8, token_budget=64, max_tokens=128)
        for device in (A, B)
    }
    for worker in workers.values():
        page_transfer.warm_up(worker)
    profile = measure(workers, model=TOY, transport=DevicePut())
    assert set(profile.bytes_per_s) == {(A, B), (B, A)}
    assert all(0 < speed < math.inf for speed in profile.bytes_per_s.values())
    assert all(0 < slack < math.inf for slack in profile.prefill_tokens_per_s.values())
    assert "2 links of" in str(profile)
    assert not jax.numpy.any(workers[A].pool[1:])  # all work was on the scratch page
