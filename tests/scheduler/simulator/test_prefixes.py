"""Prompts that begin alike: runs by hand, and the cache against its definition.

A page has 10 tokens, a block 20; a device holds 20 pages.
"""

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement.model import StepTime
from mell_jax.scheduler.simulator import check
from mell_jax.scheduler.simulator.blocks import add_blocks, read_blocks
from mell_jax.scheduler.simulator.prefixes import BlockCache, most_cached
from mell_jax.scheduler.simulator.profile import StepSpeed
from mell_jax.scheduler.simulator.repack import lives
from mell_jax.scheduler.simulator.results.compare import REPACK_LIVE, run_policy
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import Workload
from tests.scheduler.simulator.by_hand import run_recorded, workload
from tests.scheduler.simulator.test_layers import WINDOWED

SHARING = Settings(
    capacity_tokens=200,
    page_tokens=10,
    decode_tokens_per_s=10.0,
    prefill_tokens_per_s=10.0,
    link_gbps=math.inf,
)


def alike(
    rows: list[tuple[float, int, int]], blocks: list[tuple[int, ...]]
) -> Workload:
    return replace(workload(rows), blocks=tuple(blocks), block_tokens=20)


PAIR = alike([(0.0, 45, 25), (5.0, 50, 10)], [(7, 8, 9), (7, 8, 3)])
"""The first 40 tokens are the same; 5 s later the first is computed and decodes."""


def test_what_is_found_is_not_prefilled_again() -> None:
    meter, log = run_recorded(PAIR, SHARING)
    # 4.5 s for the first prompt, 1 s for the 10 tokens that are left of the second
    assert list(meter.latencies.ttft_s) == pytest.approx([1.1, 4.6])
    assert meter.summary(requests=2)["prefix_hit_share"] == 40 / 95
    assert meter.summary(requests=2)["devices_peak"] == 1
    prefixes = [
        fields["prefix"]
        for line in log[:-1]
        for name, fields in [json.loads(line).get("event", ["", {}])]
        if "prefix" in fields
    ]
    assert prefixes == [[{"device": 0, "pages": 4}]]
    with pytest.raises(ValueError, match="share prefixes"):
        check.check(log)


def test_nothing_is_found_before_it_is_computed_or_after_its_device_is_parked() -> None:
    for at_s in (4.4, 7.1):  # the first prompt takes until 4.5 s, its output until 7 s
        load = replace(PAIR, arrival_s=workload([(0.0, 1, 1), (at_s, 1, 1)]).arrival_s)
        assert run_recorded(load, SHARING)[0].prefix_hit_tokens == 0


def test_another_model_finds_nothing() -> None:
    a, b = ModelId("a"), ModelId("b")
    load = replace(PAIR, models=(a, b))
    meter, log = run_recorded(load, replace(SHARING, weights={a: 1.0, b: 1.0}))
    assert meter.prefix_hit_tokens == 0 and not any('"prefix"' in line for line in log)


def test_what_is_found_is_no_part_of_a_step() -> None:
    steps = replace(
        SHARING,
        step_time=StepTime(fixed_s=1.0, row_s=0.5),
        steps=StepSpeed(prefill_token_s=0.1, token_budget=99, max_rows=9),
    )
    meter, _ = run_recorded(PAIR, steps)
    # The first has its first token at 1 + 4.5 s, so that the second, from 5.5 s on, has
    # 10 tokens left beside one row: 1.5 + 1 s. Alone it would have taken 6.5 s.
    assert sorted(meter.latencies.ttft_s) == [3.0, 5.5]
    assert meter.prefix_hit_tokens == 40


def test_the_last_page_of_a_prompt_is_always_computed() -> None:
    same = alike([(0.0, 40, 25), (5.0, 40, 10)], [(7, 8), (7, 8)])
    assert run_recorded(same, SHARING)[0].prefix_hit_tokens == 30


def test_a_shared_prefix_is_charged_to_each_request() -> None:
    tight = replace(SHARING, capacity_tokens=100)  # 5 pages that grow to 7, and 6
    meter, _ = run_recorded(PAIR, tight)
    assert meter.summary(requests=2)["devices_peak"] == 2
    assert meter.prefix_hit_tokens == 0


def test_blocks_go_along_when_their_request_moves() -> None:
    # 7 and 5 pages fill device 0; at 0.5 s the second goes to device 1. The last one,
    # of 5 pages, has no room but there, and finds that its first 20 tokens are.
    load = alike(
        [(0.0, 65, 35), (0.0, 45, 35), (0.0, 5, 7), (1.0, 45, 5)],
        [(1, 2, 3, 10), (4, 5, 11), (6,), (4, 9, 12)],
    )
    fast = replace(SHARING, capacity_tokens=120, prefill_tokens_per_s=math.inf)
    meter, log = run_recorded(load, fast)
    assert meter.migrations == 1
    assert any('"prefix":[{"device":1,"pages":2}]' in line for line in log)
    assert meter.prefix_hit_tokens == 20


def test_the_bound_does_not_compute_what_could_be_found() -> None:
    assert most_cached(PAIR).tolist() == [0, 40]
    assert lives(PAIR, settings=SHARING).decode_s.tolist() == [4.5, 6.0]
    same = alike([(0.0, 40, 1), (0.0, 40, 1)], [(7, 8), (7, 8)])
    assert most_cached(same).tolist() == [0, 39]
    other = replace(same, models=(ModelId("a"), ModelId("b")))
    assert most_cached(other).tolist() == [0, 0]


class NaiveCache:
    """Everything is recounted at every question."""

    def __init__(self, *, capacity: int, block: int) -> None:
        self.capacity, self.block, self.pages = capacity, block, 0
        self.users: list[tuple[int, ...]] = []
        self.idle: list[int] = []  # oldest first

    def forget(self) -> None:
        used = [block for blocks in self.users for block in blocks]
        twice = len(used) - len(set(used))
        room = self.capacity - self.pages + twice * self.block
        while self.idle and len(self.idle) * self.block > max(0, room):
            self.idle.pop(0)

    def known(self) -> set[int]:
        return {block for blocks in self.users for block in blocks} | set(self.idle)


@given(
    does=st.lists(
        st.tuples(st.sampled_from(["use", "release", "charge"]), st.integers(0, 5)),
        max_size=40,
    )
)
def test_a_cache_forgets_what_is_idle_for_longest(does: list[tuple[str, int]]) -> None:
    chains = [(1, 2, 3), (1, 2), (1, 4), (5,), (6, 7, 8, 9), (6, 7)]
    cache = BlockCache(capacity_pages=8, block_pages=2)
    naive = NaiveCache(capacity=8, block=2)
    for what, at in does:
        if what == "use":
            cache.use(chains[at])
            naive.users.append(chains[at])
            naive.idle = [block for block in naive.idle if block not in chains[at]]
        elif what == "release" and chains[at] in naive.users:
            cache.release(chains[at])
            naive.users.remove(chains[at])
            used = {block for blocks in naive.users for block in blocks}
            naive.idle += [block for block in chains[at][::-1] if block not in used]
        else:
            cache.charge(at - naive.pages)
            naive.pages = at
        naive.forget()
        for chain in chains:
            lengths = [n for n in range(4) if set(chain[:n]) <= naive.known()]
            expected = max(n for n in lengths if n <= len(chain))
            assert cache.match(chain[:3]) == min(expected, 3)


def line(**changed: Any) -> str:
    row = {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}
    return json.dumps(row | changed) + "\n"


def test_blocks_are_read_and_belong_to_their_trace(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jsonl.gz"
    path.write_bytes(gzip.compress((line() + line(timestamp=1500)).encode()))
    load = read_blocks(path)
    assert load.name == "tiny" and load.blocks == ((0, 1), (0, 1))
    assert load.arrival_s.tolist() == [0.0, 1.5]
    assert load.between(1.0, 2.0).blocks == ((0, 1),)
    trace = workload([(0.0, 600, 5), (1.5, 600, 5)])
    assert add_blocks(trace, of=load).blocks == load.blocks
    with pytest.raises(ValueError, match="tiny has blocks of 2 requests that are not"):
        add_blocks(workload([(0.0, 600, 5), (1.5, 601, 5)]), of=load)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("", "has no requests"),
        ("[]\n", "line 1: it must be an object"),
        ("{\n", "line 1: Expecting"),
        (line(timestamp=None), "timestamp must be milliseconds from 0 on, got None"),
        (line(timestamp=-1), "timestamp must be milliseconds from 0 on, got -1"),
        (line(input_length=0), "input_length must be a whole number >= 1, got 0"),
        (line(output_length=1.5), "output_length must be a whole number >= 1, got 1.5"),
        (line(hash_ids=[1]), "hash_ids must be 2 whole numbers"),
        (line(hash_ids=[1, "x"]), "hash_ids must be 2 whole numbers"),
        (line(hash_ids=None), "hash_ids must be 2 whole numbers"),
        (line(timestamp=5) + line(), "line 2: arrivals must not go back"),
    ],
)
def test_a_damaged_file_of_blocks_is_refused(
    tmp_path: Path, content: str, rule: str
) -> None:
    path = tmp_path / "tiny.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=rule):
        read_blocks(path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    for name in ("tiny.jsonl", "tiny.jsonl.gz"):
        (tmp_path / name).write_bytes(b"\xff\xfe")
        with pytest.raises(ValueError, match="not readable as text or gzip"):
            read_blocks(tmp_path / name)


def test_what_does_not_go_with_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="not of whole pages of 16"):
        run_recorded(PAIR, replace(SHARING, page_tokens=16))
    with pytest.raises(ValueError, match="leave out windows or blocks"):
        run_recorded(PAIR, WINDOWED)
    with pytest.raises(ValueError, match="repack_live has its requests elsewhere"):
        run_policy(
            REPACK_LIVE,
            workload=PAIR,
            settings=SHARING,
            headroom=0.0,
            clock=lambda: 0.0,
            progress=lambda served: None,
        )
