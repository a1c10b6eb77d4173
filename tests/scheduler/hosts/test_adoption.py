"""What a controller that begins decides by the reports of those who are there."""

from dataclasses import replace

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.adoption import LEAP, Adoption
from mell_jax.scheduler.hosts.reports import after_front, after_host
from mell_jax.scheduler.hosts.roll import PeerId
from mell_jax.scheduler.ids import CopyId, DeviceGroupId, Epoch, RequestId
from mell_jax.scheduler.migration import messages
from mell_jax.scheduler.placement.events import ONLY_MODEL
from tests.scheduler.hosts.speech import (
    FRONT,
    HERE,
    LEFT,
    NEVER,
    ONE,
    OTHER_FRONT,
    RIGHT,
    THEIRS,
    THERE,
    TWO,
    ask,
)

A, B, C, D = PeerId(1), PeerId(2), PeerId(3), PeerId(4)
NEW = words.Join(name="new", num_groups=2)


def held(
    copy_id: int,
    *,
    request: RequestId = ONE,
    device: DeviceGroupId = LEFT,
    is_whole: bool = True,
) -> words.HeldCopy:
    return words.HeldCopy(
        request=request,
        copy_id=CopyId(copy_id),
        device=device,
        pages=3,
        is_whole=is_whole,
    )


def join(
    *copies: words.HeldCopy, epoch: Epoch = HERE, device: DeviceGroupId = LEFT
) -> words.Join:
    group = words.GroupReport(device=device, model=ONLY_MODEL, since=NEVER)
    return words.Join(
        name=f"host of {epoch}",
        num_groups=1,
        epoch=epoch,
        admitted=(device,),
        groups=(group,),
        copies=copies,
        seen=words.Seen(copy_id=CopyId(512), device=7),
    )


def stream(copy_id: int | None, *, request: RequestId = ONE) -> words.StreamReport:
    if copy_id is None:
        return words.StreamReport(
            ask=ask(request), copy_id=None, epoch=None, device=None
        )
    return words.StreamReport(
        ask=ask(request), copy_id=CopyId(copy_id), epoch=HERE, device=LEFT
    )


def enter(
    *streams: words.StreamReport, hosts: tuple[Epoch, ...] = (HERE,)
) -> words.Enter:
    return words.Enter(front=FRONT, streams=streams, hosts=hosts)


def adoption(*, least_hosts: int = 1) -> Adoption:
    return Adoption(patience=5, least_hosts=least_hosts)


def beats(adopting: Adoption, count: int) -> bool:
    for _ in range(count):
        adopting.beat()
    return adopting.is_complete


# For whom it waits.


def test_it_waits_for_as_many_hosts_as_it_was_told() -> None:
    adopting = adoption(least_hosts=2)
    adopting.join(A, NEW)
    assert not beats(adopting, 100)
    adopting.join(B, replace(NEW, name="another"))
    assert adopting.is_complete


def test_it_waits_two_beats_for_those_of_whom_nobody_knows() -> None:
    adopting = adoption()
    assert not beats(adopting, 100)  # nobody is there, so nothing counts
    adopting.join(A, NEW)
    assert not beats(adopting, 1)
    assert beats(adopting, 1)


def test_it_waits_for_hosts_that_a_front_end_knows() -> None:
    adopting = adoption()
    adopting.join(A, join())
    adopting.enter(B, enter(hosts=(HERE, THERE)))
    assert not beats(adopting, 4)
    adopting.join(C, join(epoch=THERE, device=RIGHT))
    assert adopting.is_complete


def test_it_waits_for_front_ends_whose_copies_hosts_hold() -> None:
    adopting = adoption()
    adopting.join(A, join(held(256, request=THEIRS)))
    assert not beats(adopting, 4)
    adopting.enter(B, words.Enter(front=OTHER_FRONT))
    assert adopting.is_complete


def test_its_patience_ends() -> None:
    adopting = adoption()
    adopting.join(A, join(held(256)))
    assert not beats(adopting, 4)
    assert beats(adopting, 1)


def test_who_has_left_again_is_waited_for_no_more() -> None:
    adopting = adoption()
    adopting.join(A, join(held(256)))
    adopting.join(B, replace(NEW))
    adopting.forget(A)
    assert beats(adopting, 2)
    assert adopting.decide().hosts == ()


# What it decides.


def test_a_copy_counts_that_its_front_end_follows_and_its_host_has() -> None:
    adopting = adoption()
    adopting.join(A, join(held(256)))
    adopting.enter(B, enter(stream(256), stream(None, request=TWO)))
    adopted = adopting.decide()
    assert [peer for _, peer in adopted.hosts] == [A]
    assert [peer for _, peer in adopted.fronts] == [B]
    assert [(s.ask, s.copy_id) for s in adopted.placed] == [(ask(pages=3), 256)]
    assert adopted.waiting == (ask(TWO),)
    assert adopted.kept == {256}
    assert adopted.strangers == ()


def test_a_copy_that_its_host_does_not_have_whole_does_not_count() -> None:
    adopting = adoption()
    adopting.join(A, join(held(256, is_whole=False)))
    adopting.enter(B, enter(stream(256)))
    assert adopting.decide().waiting == (ask(),)


def test_a_copy_that_no_front_end_follows_does_not_count() -> None:
    adopting = adoption()
    adopting.join(A, join(held(256), held(512)))
    adopting.enter(B, enter(stream(512)))
    assert adopting.decide().kept == {512}


def test_a_copy_of_another_request_does_not_count() -> None:
    adopting = adoption()
    adopting.join(A, join(held(256, request=TWO)))
    adopting.enter(B, enter(stream(256)))
    adopted = adopting.decide()
    assert adopted.placed == ()
    assert adopted.waiting == (ask(),)


def test_a_copy_at_a_host_of_another_epoch_does_not_count() -> None:
    adopting = adoption()
    adopting.join(A, join(held(256), epoch=THERE))
    adopting.enter(B, enter(stream(256), hosts=(THERE,)))
    assert adopting.decide().kept == frozenset()


def test_a_host_that_no_front_end_knows_begins_anew() -> None:
    adopting = adoption()
    adopting.join(A, join())
    adopting.join(B, NEW)
    adopted = adopting.decide()
    assert adopted.hosts == ()
    assert adopted.strangers == ((join(), A), (NEW, B))


def test_of_two_hosts_with_the_same_devices_one_begins_anew() -> None:
    adopting = adoption()
    adopting.join(A, join())
    adopting.join(B, join(epoch=THERE))
    adopting.enter(C, enter(hosts=(HERE, THERE)))
    adopted = adopting.decide()
    assert [peer for _, peer in adopted.hosts] == [A]
    assert [peer for _, peer in adopted.strangers] == [B]


def test_numbers_begin_above_all_that_a_predecessor_can_have_given_out() -> None:
    adopting = adoption()
    adopting.join(A, join())
    adopting.enter(B, replace(enter(), seen=words.Seen(copy_id=CopyId(768), device=4)))
    assert LEAP == 2**24
    assert adopting.decide().seen == words.Seen(copy_id=CopyId(768 + 2**24), device=7)


def test_the_first_controller_counts_from_the_beginning() -> None:
    adopting = adoption()
    adopting.join(A, NEW)
    assert adopting.decide().seen == words.NOTHING_SEEN


# Links that others replace.


def test_a_newer_link_voids_what_was_said_over_the_older() -> None:
    adopting = adoption()
    assert adopting.join(A, join(held(256))) == []
    assert adopting.join(B, join()) == [A]
    assert adopting.enter(C, enter(stream(256))) == []
    assert adopting.enter(D, enter()) == [C]
    adopting.hear(C, ask(TWO))
    adopted = adopting.decide()
    assert adopted.placed == adopted.waiting == ()
    assert adopting.enter(D, enter()) == []


# What changes after a report.


def test_requests_come_and_go_while_it_waits() -> None:
    adopting = adoption()
    adopting.join(A, join(held(256)))
    adopting.enter(B, enter(stream(256)))
    adopting.hear(B, ask(TWO))
    adopting.hear(B, words.Over(request=ONE))
    adopted = adopting.decide()
    assert adopted.placed == ()
    assert adopted.waiting == (ask(TWO),)


def test_a_front_end_may_reach_a_host_or_lose_it_after_its_report() -> None:
    reached = after_front(enter(), words.Reached(epoch=THERE))
    assert reached.hosts == (HERE, THERE)
    lost = after_front(enter(stream(256)), words.Unreachable(epoch=HERE))
    assert lost == enter(stream(None), hosts=())


def test_a_stream_may_break_after_its_report() -> None:
    broken = words.Broken(request=ONE, copy_id=CopyId(256))
    assert after_front(enter(stream(256)), broken) == enter(stream(None))
    assert after_front(enter(stream(512)), broken) == enter(stream(512))
    assert after_front(enter(stream(256)), words.Beat()) == enter(stream(256))


def test_a_host_may_lose_copies_and_groups_after_its_report() -> None:
    whole = join(held(256), held(512))
    released = messages.Released(request=ONE, copy_id=CopyId(256))
    told = words.Told(device=LEFT, message=released)
    assert after_host(whole, told) == join(held(512))
    failed = words.GroupFailed(device=LEFT, reason="broken")
    assert after_host(whole, failed) == replace(join(), groups=(), num_groups=0)
    assert after_host(whole, words.Leave()) == replace(whole, is_leaving=True)
    started = messages.Started(request=ONE, copy_id=CopyId(256))
    assert after_host(whole, words.Told(device=LEFT, message=started)) == whole
    assert after_host(whole, words.Beat()) == whole
