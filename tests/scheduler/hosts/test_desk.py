"""A host's part, with a controller, without one, and in between."""

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.desk import (
    Begin,
    Change,
    Deliver,
    Desk,
    LetGrow,
    ToController,
    ToFront,
)
from mell_jax.scheduler.ids import CopyId, DeviceGroupId, Epoch, ModelId, RequestId
from mell_jax.scheduler.migration import events, messages
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
    gone,
    host,
    release,
    reserve,
    start,
)

SINCE = CopyId(256)
OPEN = words.OpenGroup(device=LEFT, model=ONLY_MODEL, horizon=SINCE)


def new_desk() -> Desk:
    return Desk("a host", num_groups=2, capacity_pages={ONLY_MODEL: 10})


def serving() -> Desk:
    """Its left group serves with ten pages, its right one is parked."""
    desk = new_desk()
    desk.meet_controller(whole=())
    desk.hear_controller(words.Admit(epoch=HERE, devices=(LEFT, RIGHT)))
    desk.hear_controller(OPEN)
    return desk


def opening(
    message: words.Opened, *, pages: int = 2, since: CopyId | None = SINCE
) -> words.Opening:
    return words.Opening(device=LEFT, since=since, pages=pages, message=message)


def running(*copy_ids: int, pages: int = 2) -> Desk:
    """Copies of the first front end's requests run on the left group."""
    desk = serving()
    for number, copy_id in enumerate(copy_ids):
        message = start(copy_id, request=RequestId(ONE + number))
        desk.hear_front(FRONT, opening(message, pages=pages))
    return desk


def deliver(message: messages.ToEndpoint | events.Keep) -> Deliver:
    return Deliver(device=LEFT, message=message)


def to_front(message: words.HostToFront) -> ToFront:
    return ToFront(front=FRONT, message=message)


def grow(copy_id: int, pages: int) -> LetGrow:
    return LetGrow(device=LEFT, copy_id=CopyId(copy_id), pages=pages)


# Coming into the fleet.


def test_a_new_host_joins_without_an_epoch_and_begins_empty() -> None:
    desk = new_desk()
    assert desk.meet_controller(whole=()) == [
        ToController(message=words.Join(name="a host", num_groups=2))
    ]
    admit = words.Admit(epoch=HERE, devices=(LEFT, RIGHT))
    assert desk.hear_controller(admit) == [Begin(devices=(LEFT, RIGHT))]
    assert desk.epoch == HERE
    assert desk.is_empty


def test_a_host_says_what_it_has_to_the_next_controller() -> None:
    desk = running(512, 768)
    desk.cut_controller()
    (joined,) = desk.meet_controller(whole=[CopyId(512)])
    held = words.HeldCopy(
        request=ONE, copy_id=CopyId(512), device=LEFT, pages=2, is_whole=True
    )
    later = words.HeldCopy(
        request=TWO, copy_id=CopyId(768), device=LEFT, pages=2, is_whole=False
    )
    assert joined == ToController(
        message=words.Join(
            name="a host",
            num_groups=2,
            epoch=HERE,
            admitted=(LEFT, RIGHT),
            groups=(
                words.GroupReport(device=LEFT, model=ONLY_MODEL, since=SINCE),
                words.GroupReport(device=RIGHT, model=None, since=NEVER),
            ),
            copies=(held, later),
            seen=words.Seen(copy_id=CopyId(768), device=2),
        )
    )


def test_a_host_that_was_fenced_drops_all_and_joins_anew() -> None:
    desk = running(512)
    desk.hear_front(FRONT, opening(start(768), since=CopyId(999)))  # early
    assert desk.hear_controller(words.Fenced(reason="silent")) == [
        to_front(gone(512)),
        Begin(devices=()),
        ToController(
            message=words.Join(
                name="a host",
                num_groups=2,
                seen=words.Seen(copy_id=CopyId(768), device=2),
            )
        ),
    ]
    assert desk.epoch is None
    assert desk.held_pages == {}
    assert desk.hear_controller(OPEN) == []  # said before it was fenced


def aside(device: DeviceGroupId, *, is_aside: bool = True) -> words.SetAside:
    return words.SetAside(device=device, is_aside=is_aside)


def joined_anew(desk: Desk) -> words.Join:
    """It is fenced; returns what it says then."""
    (join,) = [
        effect.message
        for effect in desk.hear_controller(words.Fenced(reason="silent"))
        if isinstance(effect, ToController)
    ]
    assert isinstance(join, words.Join)
    return join


def test_what_is_set_aside_stays_so_under_other_numbers() -> None:
    desk = serving()
    desk.hear_controller(aside(RIGHT))
    desk.hear_controller(aside(LEFT))
    desk.hear_controller(aside(LEFT, is_aside=False))
    desk.hear_controller(aside(DeviceGroupId(99)))  # another host's
    assert desk.aside == {RIGHT}
    assert joined_anew(desk).aside == (1,)
    assert desk.aside == set()  # it has no group now
    first, second = DeviceGroupId(7), DeviceGroupId(8)
    desk.hear_controller(words.Admit(epoch=THERE, devices=(first, second)))
    assert desk.aside == {second}
    desk.failed(first, reason="gone")
    desk.num_groups = 1
    assert joined_anew(desk).aside == (0,)  # the only one that works
    desk.hear_controller(words.Admit(epoch=HERE, devices=(DeviceGroupId(9),)))
    assert desk.aside == {9}


def test_a_host_of_which_a_group_fails_before_it_is_admitted_joins_again() -> None:
    desk = serving()
    desk.hear_controller(aside(RIGHT))
    desk.failed(LEFT, reason="gone")
    desk.num_groups = 1
    first, second = DeviceGroupId(7), DeviceGroupId(8)
    said = desk.hear_controller(words.Admit(epoch=THERE, devices=(first, second)))
    join = words.Join(name="a host", num_groups=1, aside=(0,), seen=desk._seen)
    assert said == [Begin(devices=()), ToController(message=join)]
    desk.hear_controller(words.Admit(epoch=Epoch(9), devices=(DeviceGroupId(9),)))
    assert desk.aside == {9}


def test_a_host_knows_who_has_which_device() -> None:
    desk = serving()
    desk.hear_controller(words.Hosts(hosts=(host(HERE, LEFT), host(THERE, RIGHT))))
    assert desk.host_of(RIGHT) == THERE
    assert desk.host_of(DeviceGroupId(9)) is None


def test_a_host_that_leaves_says_so_to_every_controller() -> None:
    desk = running(512)
    assert desk.leave() == [ToController(message=words.Leave())]
    assert not desk.is_empty
    desk.cut_controller()
    (joined,) = desk.meet_controller(whole=())
    assert isinstance(joined, ToController)
    assert isinstance(joined.message, words.Join)
    assert joined.message.is_leaving


# Openings.


def test_an_opening_is_delivered_with_its_pages() -> None:
    desk = serving()
    assert desk.hear_front(FRONT, opening(start(512))) == [deliver(start(512))]
    assert desk.held_pages == {512: 2}
    assert desk.hear_front(FRONT, opening(reserve(768), pages=3)) == [
        deliver(reserve(768))
    ]
    assert desk.held_pages == {512: 2, 768: 3}


def test_an_opening_waits_for_word_of_what_its_group_is_to_serve() -> None:
    desk = new_desk()
    desk.meet_controller(whole=())
    desk.hear_controller(words.Admit(epoch=HERE, devices=(LEFT, RIGHT)))
    assert desk.hear_front(FRONT, opening(start(512))) == []
    assert desk.hear_controller(OPEN) == [
        Change(device=LEFT, model=ONLY_MODEL, horizon=SINCE),
        deliver(start(512)),
    ]


def test_an_opening_for_an_earlier_time_is_turned_away() -> None:
    desk = serving()
    early = opening(start(512), since=CopyId(128))
    assert desk.hear_front(FRONT, early) == [to_front(gone(512))]
    assert desk.held_pages == {}


def test_an_opening_for_a_parked_or_unknown_group_is_turned_away() -> None:
    desk = serving()
    closed = desk.hear_controller(words.CloseGroup(device=LEFT))
    assert closed == [Change(device=LEFT, model=None, horizon=NEVER)]
    assert desk.hear_front(FRONT, opening(start(512))) == [to_front(gone(512))]
    unknown = words.Opening(
        device=DeviceGroupId(9), since=SINCE, pages=2, message=start(512)
    )
    assert desk.hear_front(FRONT, unknown) == [to_front(gone(512))]


def test_an_opening_that_waited_for_another_time_is_turned_away_then() -> None:
    desk = new_desk()
    desk.meet_controller(whole=())
    desk.hear_controller(words.Admit(epoch=HERE, devices=(LEFT, RIGHT)))
    desk.hear_front(FRONT, opening(start(512)))
    later = words.OpenGroup(device=LEFT, model=ONLY_MODEL, horizon=CopyId(1024))
    assert desk.hear_controller(later)[1:] == [to_front(gone(512))]


def test_a_front_ends_own_choice_must_have_room_and_no_controller() -> None:
    desk = serving()
    own = opening(start(517), pages=10, since=None)
    assert desk.hear_front(FRONT, own) == [to_front(gone(517))]
    desk.cut_controller()
    assert desk.hear_front(FRONT, own) == [deliver(start(517))]
    second = opening(start(773, request=TWO), pages=1, since=None)
    assert desk.hear_front(FRONT, second) == [to_front(gone(773, request=TWO))]


def test_orders_go_to_devices_that_are_here() -> None:
    desk = serving()
    order = words.Order(device=LEFT, message=release(512))
    assert desk.hear_controller(order) == [deliver(release(512))]
    elsewhere = words.Order(device=DeviceGroupId(9), message=release(512))
    assert desk.hear_controller(elsewhere) == []


# Front ends.


def test_a_front_end_drops_its_copy_and_no_other() -> None:
    desk = running(512)
    wrong = words.Drop(request=TWO, copy_id=CopyId(512))
    assert desk.hear_front(FRONT, wrong) == []
    unknown = words.Drop(request=ONE, copy_id=CopyId(999))
    assert desk.hear_front(FRONT, unknown) == []
    right = words.Drop(request=ONE, copy_id=CopyId(512))
    assert desk.hear_front(FRONT, right) == [deliver(release(512))]
    assert desk.freed(CopyId(512)) == [to_front(gone(512))]
    assert desk.freed(CopyId(512)) == []


def test_a_copy_that_begins_to_run_takes_the_place_of_older_ones_at_once() -> None:
    """Word of their release comes by another link, and may come later."""
    desk = running(512, 768)  # of two requests
    newer = start(1024, request=RequestId(ONE))
    assert desk.hear_front(FRONT, opening(newer)) == [
        deliver(release(512)),
        deliver(newer),
    ]
    assert desk.freed(CopyId(512)) == [to_front(gone(512))]
    assert list(desk.held_pages) == [768, 1024]


def test_copies_of_a_front_end_that_is_cut_are_released() -> None:
    desk = running(512)
    theirs = opening(start(768, request=THEIRS))
    desk.hear_front(OTHER_FRONT, theirs)
    desk.hear_front(FRONT, opening(start(1024), since=CopyId(999)))  # early
    assert desk.cut_front(FRONT) == [deliver(release(512))]
    again = words.OpenGroup(device=LEFT, model=ONLY_MODEL, horizon=CopyId(999))
    assert desk.hear_controller(again) == [
        Change(device=LEFT, model=ONLY_MODEL, horizon=CopyId(999))
    ]  # and nothing of the one that came early


def test_front_ends_hear_of_room_where_a_model_is_served() -> None:
    desk = running(512, pages=3)
    rooms = words.Rooms(rooms=(words.Room(device=LEFT, model=ONLY_MODEL, pages=7),))
    assert desk.tell_rooms([FRONT, OTHER_FRONT]) == [
        ToFront(front=FRONT, message=rooms),
        ToFront(front=OTHER_FRONT, message=rooms),
    ]
    assert desk.hear_front(FRONT, words.Beat()) == []


# Pages.


def want(pages: int) -> ToController:
    return ToController(
        message=words.Want(request=ONE, copy_id=CopyId(512), pages=pages)
    )


def test_a_row_asks_the_controller_once_for_each_page() -> None:
    desk = running(512)
    assert desk.wants(CopyId(512), pages=2) == ()  # it has them
    assert desk.wants(CopyId(512), pages=3) == [want(3)]
    assert desk.wants(CopyId(512), pages=3) == ()
    grant = words.Grant(request=ONE, copy_id=CopyId(512), pages=3)
    assert desk.hear_controller(grant) == [grow(512, 3)]
    assert desk.held_pages == {512: 3}
    assert desk.wants(CopyId(999), pages=3) == ()
    unknown = words.Grant(request=ONE, copy_id=CopyId(999), pages=3)
    assert desk.hear_controller(unknown) == []


def test_what_was_wanted_is_granted_when_the_controller_is_cut() -> None:
    desk = running(512)
    desk.wants(CopyId(512), pages=3)
    assert desk.cut_controller() == [grow(512, 3)]
    assert desk.is_alone
    assert desk.wants(CopyId(512), pages=10) == [grow(512, 10)]


def test_alone_it_grants_no_page_that_it_does_not_have() -> None:
    desk = running(512, 768, pages=5)
    desk.cut_controller()
    assert desk.wants(CopyId(512), pages=6) == []
    assert desk.held_pages == {512: 5, 768: 5}


def test_alone_the_newest_row_goes_when_none_can_go_on() -> None:
    desk = running(512, 768, pages=5)
    desk.cut_controller()
    desk.wants(CopyId(512), pages=6)
    assert desk.wants(CopyId(768), pages=6) == [deliver(release(768, request=TWO))]
    assert desk.freed(CopyId(768)) == [
        to_front(gone(768, request=TWO)),
        grow(512, 6),
    ]


def test_alone_it_has_nothing_to_say_to_a_controller() -> None:
    desk = running(512)
    desk.cut_controller()
    started = messages.Started(request=ONE, copy_id=CopyId(512))
    assert desk.says(LEFT, started) == []
    assert desk.opened(LEFT, ONLY_MODEL, took_s=1.0) == []
    assert desk.cut_peer(THERE) == []
    desk.meet_controller(whole=())
    assert desk.says(LEFT, started) == [
        ToController(message=words.Told(device=LEFT, message=started))
    ]
    assert desk.opened(LEFT, ONLY_MODEL, took_s=1.5) == [
        ToController(
            message=words.GroupOpened(device=LEFT, model=ONLY_MODEL, took_s=1.5)
        )
    ]
    assert desk.cut_peer(THERE) == [ToController(message=words.PeerCut(epoch=THERE))]
    assert desk.hear_controller(words.Beat()) == []


def test_a_group_without_a_model_has_no_room() -> None:
    desk = serving()
    desk.cut_controller()
    own = words.Opening(device=RIGHT, since=None, pages=1, message=start(517))
    assert desk.hear_front(FRONT, own) == [to_front(gone(517))]
    assert desk.serves == {LEFT: ModelId(ONLY_MODEL), RIGHT: None}


# A new controller.


def test_copies_that_a_new_controller_keeps_ask_again_for_pages() -> None:
    desk = running(512, 768)
    desk.wants(CopyId(512), pages=3)
    desk.wants(CopyId(768), pages=3)
    retain = words.Retain(copies=frozenset([CopyId(512)]), horizon=CopyId(2048))
    keep = events.Keep(copies=retain.copies, horizon=retain.horizon)
    assert desk.hear_controller(retain) == [
        deliver(keep),
        Deliver(device=RIGHT, message=keep),
        want(3),
    ]


def test_early_openings_of_a_predecessor_are_turned_away() -> None:
    desk = serving()
    desk.hear_front(FRONT, opening(start(512), since=CopyId(999)))
    desk.hear_front(FRONT, opening(start(4096, request=TWO), since=CopyId(4000)))
    retain = words.Retain(copies=frozenset(), horizon=CopyId(2048))
    assert desk.hear_controller(retain)[2:] == [to_front(gone(512))]
    later = words.OpenGroup(device=LEFT, model=ONLY_MODEL, horizon=CopyId(4000))
    assert desk.hear_controller(later)[1:] == [deliver(start(4096, request=TWO))]


def test_a_group_that_fails_takes_its_copies_with_it() -> None:
    desk = running(512)
    desk.hear_front(FRONT, opening(start(768, request=TWO), since=CopyId(999)))
    assert desk.failed(LEFT, reason="broken") == [
        ToController(message=words.GroupFailed(device=LEFT, reason="broken")),
        to_front(gone(768, request=TWO)),
        to_front(gone(512)),
    ]
    assert desk.failed(LEFT, reason="broken") == ()
    assert desk.hear_controller(words.CloseGroup(device=LEFT)) == []
    assert desk.held_pages == {}


def test_hosts_that_come_and_go_are_told_as_changes() -> None:
    desk = serving()
    desk.hear_controller(words.Hosts(hosts=(host(HERE, LEFT), host(THERE, RIGHT))))
    third = host(Epoch(30), DeviceGroupId(7))
    change = words.HostsChanged(came=(third,), gone=(THERE,))
    assert desk.hear_controller(change) == []
    assert desk.hosts == (host(HERE, LEFT), third)
    assert desk.host_of(DeviceGroupId(7)) == Epoch(30)
    assert desk.host_of(RIGHT) is None
    (met,) = desk.meet_controller(whole=())
    assert isinstance(met, ToController) and isinstance(met.message, words.Join)
    assert met.message.seen.device == 7
