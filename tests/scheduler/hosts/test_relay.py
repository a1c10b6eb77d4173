"""A front end's part, told by the controller and by hosts, in every order."""

import pytest

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.relay import (
    Fail,
    Leave,
    Pass,
    Reach,
    Relay,
    ToController,
    ToHost,
)
from mell_jax.scheduler.ids import CopyId, DeviceGroupId, Epoch, ModelId, RequestId
from mell_jax.scheduler.placement.events import ONLY_MODEL
from tests.scheduler.hosts.speech import (
    FRONT,
    HERE,
    LEFT,
    ONE,
    RIGHT,
    THERE,
    TWO,
    ask,
    commit,
    gone,
    host,
    reserve,
    row,
    start,
)

BOTH = words.Hosts(hosts=(host(HERE, LEFT), host(THERE, RIGHT)))
ONLY_HERE = words.Hosts(hosts=(host(HERE, LEFT),))


def pages_of(_: ModelId, tokens: int) -> int:
    return -(-tokens // 2)


def new_relay() -> Relay:
    return Relay(FRONT, slot=5, pages_of=pages_of)


def relay_with_hosts() -> Relay:
    """It has a controller, links to both hosts, and a stream that follows nothing."""
    relay = new_relay()
    relay.meet_controller()
    relay.hear_controller(BOTH)
    relay.reached(HERE)
    relay.reached(THERE)
    relay.ask(ask())
    return relay


def relayed(
    message: words.Opened, *, epoch: Epoch = HERE, device: DeviceGroupId = LEFT
) -> words.Relayed:
    return words.Relayed(
        epoch=epoch, device=device, since=CopyId(256), pages=2, message=message
    )


def opening(message: words.Opened, *, device: DeviceGroupId = LEFT) -> words.Opening:
    return words.Opening(device=device, since=CopyId(256), pages=2, message=message)


def rooms(device: DeviceGroupId, pages: int) -> words.Rooms:
    room = words.Room(device=device, model=ONLY_MODEL, pages=pages)
    return words.Rooms(rooms=(room,))


def moving() -> Relay:
    """Its stream has one token of copy 256 here, and moves there as 512 at token 2."""
    relay = relay_with_hosts()
    relay.hear_controller(relayed(start(256)))
    relay.hear_host(HERE, row(256, 0, 50))
    relay.hear_controller(relayed(reserve(512), epoch=THERE, device=RIGHT))
    relay.hear_controller(relayed(commit(512, 50, 51), epoch=THERE, device=RIGHT))
    return relay


@pytest.mark.parametrize("slot", [0, 256, -1])
def test_a_slot_outside_the_stride_is_refused(slot: int) -> None:
    with pytest.raises(ValueError, match=r"slot must be in \[1, 256\)"):
        Relay(FRONT, slot=slot, pages_of=pages_of)


# With a controller.


def test_it_tells_a_controller_what_there_is() -> None:
    relay = relay_with_hosts()
    relay.hear_controller(relayed(start(256)))
    relay.hear_host(HERE, row(256, 0, 50))
    relay.cut_controller()
    (entered,) = relay.meet_controller()
    assert entered == ToController(
        message=words.Enter(
            front=FRONT,
            streams=(
                words.StreamReport(
                    ask=ask(known=5, pages=3),
                    copy_id=CopyId(256),
                    epoch=HERE,
                    device=LEFT,
                ),
            ),
            hosts=(HERE, THERE),
            seen=words.Seen(copy_id=CopyId(256), device=2),
        )
    )


def test_a_request_is_asked_for_at_the_controller() -> None:
    relay = new_relay()
    relay.meet_controller()
    assert relay.ask(ask()) == [ToController(message=ask())]


def test_it_connects_to_new_hosts_and_leaves_those_that_are_gone() -> None:
    relay = new_relay()
    relay.meet_controller()
    assert relay.hear_controller(ONLY_HERE) == [Reach(host=host(HERE, LEFT))]
    assert relay.hear_controller(BOTH) == [Reach(host=host(THERE, RIGHT))]
    assert relay.reached(HERE) == [ToController(message=words.Reached(epoch=HERE))]
    assert relay.hear_controller(words.Hosts(hosts=())) == [
        Leave(epoch=HERE),
        Leave(epoch=THERE),
    ]
    assert relay.reached(THERE) == []  # too late


def test_a_start_is_the_fence_and_goes_on_with_all_known_tokens() -> None:
    relay = relay_with_hosts()
    assert relay.hear_controller(relayed(start(256))) == [
        ToHost(epoch=HERE, message=opening(start(256, known=4)))
    ]
    relay.hear_host(HERE, row(256, 0, 50))
    assert relay.hear_controller(relayed(start(512), epoch=THERE, device=RIGHT)) == [
        ToHost(epoch=THERE, message=opening(start(512, known=5), device=RIGHT))
    ]
    assert relay.hear_host(HERE, row(256, 1, 51)) == []
    assert relay.hear_host(THERE, row(512, 1, 61)) == [Pass(row=row(512, 1, 61))]


def test_openings_wait_until_the_host_is_reached() -> None:
    relay = new_relay()
    relay.meet_controller()
    relay.hear_controller(ONLY_HERE)
    relay.ask(ask())
    assert relay.hear_controller(relayed(start(256))) == []
    assert relay.reached(HERE) == [
        ToController(message=words.Reached(epoch=HERE)),
        ToHost(epoch=HERE, message=opening(start(256))),
    ]


def test_openings_for_a_host_that_is_gone_are_dropped() -> None:
    relay = relay_with_hosts()
    relay.hear_controller(words.Hosts(hosts=()))
    assert relay.hear_controller(relayed(start(256))) == []


def test_openings_of_a_stream_that_is_over_are_dropped() -> None:
    relay = relay_with_hosts()
    assert relay.close(ONE) == [ToController(message=words.Over(request=ONE))]
    assert relay.hear_controller(relayed(start(256))) == []
    assert relay.close(ONE) == []


def test_a_commit_passes_on_the_rest_of_the_source_first() -> None:
    relay = moving()
    assert relay.hear_host(THERE, row(512, 2, 52)) == []
    assert relay.hear_host(HERE, row(256, 1, 51)) == [
        Pass(row=row(256, 1, 51)),
        Pass(row=row(512, 2, 52)),
    ]


def test_a_lost_source_breaks_a_stream_that_lacks_its_tokens() -> None:
    relay = moving()
    assert relay.cut_host(HERE) == [
        ToController(message=words.Broken(request=ONE, copy_id=CopyId(512))),
        ToController(message=words.Unreachable(epoch=HERE)),
    ]
    assert relay.hear_host(THERE, row(512, 2, 52)) == []


def test_a_commit_after_the_loss_of_its_source_breaks_the_stream_as_well() -> None:
    relay = relay_with_hosts()
    relay.hear_controller(relayed(start(256)))
    relay.hear_host(HERE, row(256, 0, 50))
    relay.cut_host(HERE)
    order = relayed(commit(512, 50, 51), epoch=THERE, device=RIGHT)
    said = relay.hear_controller(order)
    broken = words.Broken(request=ONE, copy_id=CopyId(512))
    assert ToController(message=broken) in said


def test_a_lost_source_whose_tokens_are_all_there_is_no_loss() -> None:
    relay = moving()
    relay.hear_host(HERE, row(256, 1, 51))
    assert relay.cut_host(HERE) == [ToController(message=words.Unreachable(epoch=HERE))]
    assert relay.hear_host(THERE, row(512, 2, 52)) == [Pass(row=row(512, 2, 52))]


def test_a_host_that_is_lost_is_not_listened_to_any_more() -> None:
    relay = relay_with_hosts()
    relay.hear_controller(relayed(start(256)))
    relay.cut_host(HERE)
    assert relay.hear_host(HERE, row(256, 0, 50)) == []
    assert relay.streams[ONE].latest is None


def test_a_copy_that_is_gone_though_it_should_run_is_told() -> None:
    relay = relay_with_hosts()
    relay.hear_controller(relayed(start(256)))
    assert relay.hear_host(HERE, gone(255)) == []
    assert relay.hear_host(THERE, gone(256)) == []  # another host's copy
    assert relay.hear_host(HERE, gone(256)) == [
        ToController(message=words.Broken(request=ONE, copy_id=CopyId(256)))
    ]
    assert relay.hear_host(HERE, gone(256)) == []


def test_a_disowned_stream_follows_nothing() -> None:
    relay = relay_with_hosts()
    relay.hear_controller(relayed(start(256)))
    relay.hear_controller(words.Disowned(request=ONE))
    assert relay.hear_host(HERE, row(256, 0, 50)) == []
    relay.hear_controller(words.Disowned(request=TWO))  # over, or of nobody


def test_a_refusal_reaches_the_client_once() -> None:
    relay = relay_with_hosts()
    refused = words.Refused(request=ONE, reason="too large")
    assert relay.hear_controller(refused) == [Fail(request=ONE, reason="too large")]
    assert relay.hear_controller(refused) == []


def test_beats_say_nothing_more() -> None:
    relay = relay_with_hosts()
    assert relay.hear_controller(words.Beat()) == []
    assert relay.hear_host(HERE, words.Beat()) == []


def test_rows_of_unknown_requests_are_dropped() -> None:
    assert relay_with_hosts().hear_host(HERE, row(256, 0, 50, request=TWO)) == []


# Alone.


def alone() -> Relay:
    relay = relay_with_hosts()
    relay.cut_controller()
    return relay


def own_start(copy_id: int, *, known: int, pages: int) -> words.Opening:
    return words.Opening(
        device=LEFT, since=None, pages=pages, message=start(copy_id, known=known)
    )


def test_alone_it_places_where_most_room_is() -> None:
    relay = alone()
    relay.hear_host(THERE, rooms(RIGHT, 1))  # too little
    assert relay.hear_host(HERE, rooms(LEFT, 9)) == [
        ToHost(epoch=HERE, message=own_start(261, known=4, pages=2))  # 256 + slot
    ]
    assert relay.ask(ask(TWO)) == [
        ToHost(
            epoch=HERE,
            message=words.Opening(
                device=LEFT, since=None, pages=2, message=start(517, request=TWO)
            ),
        )
    ]


def test_alone_it_counts_what_it_has_taken_of_a_room() -> None:
    relay = alone()
    relay.hear_host(HERE, rooms(LEFT, 3))
    assert relay.ask(ask(TWO)) == []  # one page is left, it needs two


def test_alone_it_places_no_model_that_is_not_served() -> None:
    relay = alone()
    room = words.Room(device=LEFT, model=ModelId("another"), pages=9)
    assert relay.hear_host(HERE, words.Rooms(rooms=(room,))) == []


def test_its_own_copies_have_higher_numbers_than_all_it_knows_of() -> None:
    relay = relay_with_hosts()
    relay.hear_controller(relayed(start(1024)))
    relay.cut_controller()
    relay.hear_host(HERE, rooms(LEFT, 9))
    said = relay.cut_host(THERE)
    assert said == []
    (placed,) = relay.ask(ask(TWO))
    assert isinstance(placed, ToHost)
    assert isinstance(placed.message, words.Opening)
    assert placed.message.message.copy_id == 1285  # 1024 + 256 + slot


def test_alone_a_stream_whose_host_is_lost_goes_on_elsewhere() -> None:
    relay = relay_with_hosts()
    relay.hear_controller(relayed(start(256), epoch=THERE, device=RIGHT))
    relay.hear_host(THERE, row(256, 0, 50))
    relay.cut_controller()
    relay.hear_host(HERE, rooms(LEFT, 9))
    assert relay.cut_host(THERE) == [
        ToHost(epoch=HERE, message=own_start(517, known=5, pages=3))
    ]


def test_alone_a_broken_stream_drops_what_it_cannot_follow() -> None:
    relay = moving()
    relay.cut_controller()
    relay.hear_host(THERE, rooms(RIGHT, 9))
    said = relay.cut_host(HERE)
    assert said[0] == ToHost(
        epoch=THERE, message=words.Drop(request=ONE, copy_id=CopyId(512))
    )
    assert isinstance(said[1], ToHost)
    assert isinstance(said[1].message, words.Opening)
    assert said[1].message.message == start(773, known=5)


def test_alone_a_copy_that_is_gone_waits_for_word_of_room() -> None:
    relay = alone()
    relay.hear_host(HERE, rooms(LEFT, 9))
    assert relay.hear_host(HERE, gone(261)) == []
    assert relay.hear_host(HERE, rooms(LEFT, 9)) == [
        ToHost(epoch=HERE, message=own_start(517, known=4, pages=2))
    ]


def test_alone_a_closed_stream_drops_its_copies() -> None:
    relay = moving()
    relay.cut_controller()
    assert relay.close(ONE) == [
        ToHost(epoch=HERE, message=words.Drop(request=ONE, copy_id=CopyId(256))),
        ToHost(epoch=THERE, message=words.Drop(request=ONE, copy_id=CopyId(512))),
    ]


def test_alone_a_stream_without_a_place_waits() -> None:
    relay = new_relay()
    assert relay.ask(ask()) == []
    assert relay.streams[RequestId(ONE)].latest is None


# Copies that nobody wants.


def drop(copy_id: int, request: RequestId = ONE) -> words.Drop:
    return words.Drop(request=request, copy_id=CopyId(copy_id))


def test_what_a_controller_may_not_have_had_released_is_dropped_when_it_is_gone() -> (
    None
):
    relay = relay_with_hosts()
    relay.hear_controller(relayed(start(256)))
    assert relay.close(ONE) == [ToController(message=words.Over(request=ONE))]
    assert relay.cut_controller() == [ToHost(epoch=HERE, message=drop(256))]


def test_what_is_gone_already_is_not_dropped() -> None:
    relay = relay_with_hosts()
    relay.hear_controller(relayed(start(256)))
    relay.close(ONE)
    relay.hear_host(HERE, gone(256))
    assert relay.cut_controller() == []


def test_a_copy_that_a_stream_follows_is_kept_and_older_ones_are_dropped() -> None:
    relay = moving()
    assert relay.cut_controller() == []  # a token of the older copy is to come
    relay.meet_controller()
    relay.hear_host(HERE, row(256, 1, 51))
    assert relay.cut_controller() == [ToHost(epoch=HERE, message=drop(256))]


def test_what_was_kept_for_a_move_is_dropped_with_the_controller() -> None:
    relay = relay_with_hosts()
    relay.hear_controller(relayed(start(256)))
    relay.hear_controller(relayed(reserve(512), epoch=THERE, device=RIGHT))
    assert relay.cut_controller() == [ToHost(epoch=THERE, message=drop(512))]


def test_what_a_lost_host_had_is_not_dropped() -> None:
    relay = relay_with_hosts()
    relay.hear_controller(relayed(start(256)))
    relay.close(ONE)
    relay.cut_host(HERE)
    relay.beat()
    relay.reached(HERE)
    assert relay.cut_controller() == []


# Links.


def test_a_host_without_a_link_is_looked_for_at_every_beat() -> None:
    relay = relay_with_hosts()
    assert relay.beat() == []
    assert relay.cut_host(HERE) == [ToController(message=words.Unreachable(epoch=HERE))]
    assert relay.beat() == [Reach(host=host(HERE, LEFT))]
    assert relay.beat() == []  # it is being reached
    assert relay.reached(HERE) == [ToController(message=words.Reached(epoch=HERE))]


def test_an_opening_that_cannot_be_passed_on_is_not_followed() -> None:
    relay = relay_with_hosts()
    relay.cut_host(HERE)
    assert relay.hear_controller(relayed(start(256))) == []
    assert relay.streams[ONE].latest is None
    relay.beat()
    assert relay.reached(HERE) == [ToController(message=words.Reached(epoch=HERE))]


def test_hosts_that_come_are_reached_and_those_that_go_are_left() -> None:
    relay = relay_with_hosts()
    third = host(Epoch(30), DeviceGroupId(7))
    change = words.HostsChanged(came=(third,), gone=(THERE,))
    assert relay.hear_controller(change) == [Leave(epoch=THERE), Reach(host=third)]
    relay.reached(Epoch(30))
    (met,) = relay.meet_controller()
    assert isinstance(met, ToController) and isinstance(met.message, words.Enter)
    assert set(met.message.hosts) == {HERE, Epoch(30)}
    assert met.message.seen.device == 7
