"""Ranges of versions are those that a list of one version a token would have."""

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from mell_jax.engine.frames import Handle
from mell_jax.frontend.inbox import Inbox
from mell_jax.frontend.versions import VersionRange, VersionStart, joined, ranges_of

TOKENS = st.lists(st.sampled_from("ab"), max_size=12)
CUTS = st.lists(st.integers(1, 5), min_size=12, max_size=12)


def spelled(ranges: tuple[VersionRange, ...]) -> str:
    return "".join(each.version * (each.end - each.first) for each in ranges)


@given(versions=TOKENS, cuts=CUTS)
def test_an_inbox_and_its_ranges_say_the_version_of_every_token(
    versions: list[str], cuts: list[int]
) -> None:
    inbox = Inbox(Handle(1), index=0, num_top_logprobs=None)
    ranges: list[VersionRange] = []
    told, at, version = "", 0, ""
    while at < len(versions):
        part = versions[at : at + cuts.pop()]
        for each in part:
            if each != told:
                inbox.add_version(each)
                told = each
            inbox.add(7, logprobs=None, row=0)
        arrival = inbox.take()
        assert arrival is not None
        new = ranges_of(arrival.versions, version=version, first=at, count=len(part))
        version, at = new[-1].version, at + len(part)
        assert spelled(new) == "".join(part)
        ranges += new
    whole = joined(ranges)
    assert spelled(whole) == "".join(versions)
    assert len(whole) == len(list(groupby(versions)))
    assert [each.first for each in whole] == [0, *(e.end for e in whole)][:-1]


def test_what_is_cut_off_by_a_stop_has_no_version() -> None:
    starts = [VersionStart(0, "a"), VersionStart(3, "b")]
    assert ranges_of(starts, version="", first=10, count=2) == (("a", 10, 12),)
    assert ranges_of(starts, version="", first=10, count=0) == ()


def test_a_version_told_twice_is_one() -> None:
    starts = [VersionStart(0, "a"), VersionStart(2, "a")]
    assert ranges_of(starts, version="a", first=0, count=4) == (("a", 0, 4),)
