"""Toy hosts with real links: streams are exact, whoever is lost on the way."""

import logging
import random
import time
from concurrent.futures import Future

import pytest

from mell_jax.engine.admin import (
    Answer,
    Command,
    Drain,
    ListPlacements,
    Migrate,
    SetPolicy,
    Undrain,
)
from mell_jax.engine.frames import FinishReason, Handle
from mell_jax.events import LOGGER_NAME
from mell_jax.hosts.front import HostsEngine
from mell_jax.scheduler.placement.operator import NotPossibleError, UnknownTargetError
from tests.hosts.processes import wait_for
from tests.hosts.toy_hosts import LINKS, ToyControl, ToyFront, ToyHost, toy_hosts
from tests.toy import expected

NUM_PAGES = 17
Wanted = dict[Handle, list[int]]


def ask_some(front: ToyFront, *, count: int, seed: int) -> Wanted:
    """Asks, one after the other; returns the right answers."""
    rng, wanted = random.Random(seed), {}
    for _ in range(count):
        prompt = [rng.randint(1, 40) for _ in range(rng.randint(3, 20))]
        length = rng.randint(20, 90)
        handle = front.submit(prompt, count=length)
        wanted[handle] = expected(prompt, count=length)
        time.sleep(0.02)
    return wanted


def check(front: ToyFront, wanted: Wanted) -> None:
    assert front.wait_finished(list(wanted))
    assert {handle: front.tokens[handle] for handle in wanted} == wanted
    assert {front.finished[handle].reason for handle in wanted} == {FinishReason.LENGTH}
    assert {front.prompts[handle] for handle in wanted} == {1}


def check_at_rest(control: ToyControl, hosts: list[ToyHost]) -> None:
    """Nobody holds anything, soon after."""

    def left() -> tuple[object, ...]:
        def look(control):
            coordinator = control.coordinator
            books = coordinator.machine.ledger.requests
            return dict(coordinator.requests), dict(books)

        held = [host.host.desk.held_pages for host in hosts]
        return control.ask(look), held

    nothing = (({}, {}), [{} for _ in hosts])
    for _ in range(100):
        if left() == nothing:
            return
        time.sleep(0.05)
    assert left() == nothing
    assert [host.ended for host in hosts] == [[] for _ in hosts]


@pytest.mark.parametrize("policy", ["consolidate", "load_balance"])
def test_streams_are_exact_on_hosts_between_which_they_move(policy: str) -> None:
    with toy_hosts(hosts=2, policy=policy, num_pages=NUM_PAGES) as (
        control,
        hosts,
        front,
    ):
        check(front, ask_some(front, count=24, seed=1))
        check_at_rest(control, hosts)


def test_a_host_that_is_lost_costs_no_stream() -> None:
    with toy_hosts(hosts=3, policy="load_balance", num_pages=NUM_PAGES) as (
        control,
        hosts,
        front,
    ):
        wanted = ask_some(front, count=16, seed=2)
        hosts[0].vanish()
        wanted |= ask_some(front, count=8, seed=3)
        check(front, wanted)
        check_at_rest(control, hosts[1:])


def test_hosts_serve_on_without_a_controller_and_another_one_adopts_them() -> None:
    with toy_hosts(hosts=2, policy="load_balance", num_pages=NUM_PAGES) as (
        control,
        hosts,
        front,
    ):
        wanted = ask_some(front, count=10, seed=4)
        assert front.wait(lambda: any(front.tokens[handle] for handle in wanted))
        control.stop()  # groups are open: there is room for requests to come
        alone = ask_some(front, count=6, seed=5)
        assert front.wait(lambda: any(front.tokens[handle] for handle in alone))
        other = ToyControl(address=control.address, hosts=1, policy="load_balance")
        try:
            wanted |= alone | ask_some(front, count=6, seed=6)
            check(front, wanted)
            check_at_rest(other, hosts)
        finally:
            other.stop()


def test_nothing_is_left_of_a_front_end_that_is_gone() -> None:
    with toy_hosts(hosts=2, policy="consolidate", num_pages=NUM_PAGES) as (
        control,
        hosts,
        front,
    ):
        lost = ToyFront(control.address)
        gone = ask_some(lost, count=8, seed=7)
        assert lost.wait(lambda: any(lost.tokens[handle] for handle in gone))
        lost.stop()
        check(front, ask_some(front, count=8, seed=8))
        check_at_rest(control, hosts)


def test_a_host_that_leaves_moves_its_requests_away() -> None:
    with toy_hosts(hosts=2, policy="load_balance", num_pages=NUM_PAGES) as (
        control,
        hosts,
        front,
    ):
        wanted = ask_some(front, count=8, seed=9)
        hosts[0].leave()
        wanted |= ask_some(front, count=8, seed=10)
        assert hosts[0].host.has_left.wait(30.0)
        check(front, wanted)
        check_at_rest(control, hosts)


def test_what_is_aborted_ends_at_once_and_holds_nothing() -> None:
    with toy_hosts(hosts=2, policy="consolidate", num_pages=NUM_PAGES) as (
        control,
        hosts,
        front,
    ):
        handle = front.submit([1, 2, 3], count=100)
        assert front.wait(lambda: bool(front.tokens[handle]))
        front.abort(handle)
        assert front.wait_finished([handle])
        assert front.finished[handle].reason is FinishReason.ABORT
        check_at_rest(control, hosts)


def test_what_breaks_a_rule_is_refused() -> None:
    with toy_hosts(hosts=1, policy="consolidate", num_pages=NUM_PAGES) as (
        control,
        hosts,
        front,
    ):
        handle = front.submit([1, 2, 10**6], count=3)
        assert front.wait_finished([handle])
        assert front.finished[handle].reason is FinishReason.ERROR
        assert front.finished[handle].field == "prompt"
        check_at_rest(control, hosts)


def test_a_front_end_ends_when_there_is_no_use_in_waiting() -> None:
    engine = HostsEngine("127.0.0.1:1", name="front", links=LINKS)
    with pytest.raises(OSError, match="host b has ended"):
        engine.connect(trouble=lambda: "host b has ended")
    assert not engine.is_alive
    impatient = HostsEngine("127.0.0.1:1", name="front", links=LINKS)
    with pytest.raises(OSError, match="no controller with a host answers at 127"):
        impatient.connect(most_s=0.1)


def test_a_host_with_other_models_is_told_why_it_is_not_let_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger=LOGGER_NAME)
    with toy_hosts(hosts=1, policy="consolidate", num_pages=NUM_PAGES) as (
        control,
        hosts,
        front,
    ):
        refused: list[str] = []
        other = ToyHost(
            "other",
            controller=control.address,
            num_pages=NUM_PAGES + 8,
            on_refused=refused.append,
        )
        try:
            assert wait_for(lambda: bool(refused), most_s=60.0)
            assert "num_pages of toy is 25, the fleet's 17" in refused[0]
            assert f"host other is not let in: {refused[0]}" in caplog.messages
        finally:
            other.stop()
        check(front, ask_some(front, count=4, seed=11))
        check_at_rest(control, hosts)


def test_who_comes_and_goes_is_told_by_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=LOGGER_NAME)

    def told() -> list[str]:
        return [getattr(record, "event", "") for record in caplog.records]

    with toy_hosts(hosts=2, policy="load_balance", num_pages=NUM_PAGES) as (
        control,
        hosts,
        front,
    ):
        check(front, ask_some(front, count=4, seed=12))
        assert {"controller_began", "host_joined", "controller_adopted"} <= set(told())
        epochs = {
            record.fields["host"]: record.fields["host_epoch"]
            for record in caplog.records
            if getattr(record, "event", "") == "host_admitted"
            and "host" in record.fields
        }
        roll = control.ask(lambda control: control.coordinator.roll.hosts)
        assert epochs == {host.name: host.epoch for host in roll.values()}
        hosts[0].leave()
        assert hosts[0].host.has_left.wait(60.0)
        hosts[0].stop()
        assert wait_for(lambda: "host_left" in told(), most_s=60.0)
        assert not {"host_lost", "host_fenced"} & set(told())
        hosts[1].vanish()  # whose end the front end may hear first
        gone = {"host_lost", "host_fenced"}
        assert wait_for(lambda: bool(gone & set(told())), most_s=60.0)
        front.stop()
        assert wait_for(lambda: "front_end_gone" in told(), most_s=60.0)


def test_an_operator_moves_requests_and_sets_groups_aside() -> None:
    """Where threads are late, hosts may be given up meanwhile, and join again."""
    with toy_hosts(hosts=2, policy="consolidate", num_pages=NUM_PAGES) as (
        control,
        hosts,
        front,
    ):
        wanted = ask_some(front, count=10, seed=13)
        for policy in ("pinned_spread", "consolidate"):
            do(front, SetPolicy(policy=policy))
            wanted |= ask_some(front, count=6, seed=14)
        move_some(front)
        assert wait_for(lambda: drains_all_but_one(front, control), most_s=60.0)
        assert wait_for(lambda: last_is_kept(front, control), most_s=60.0)
        check(front, wanted)
        assert wait_for(lambda: len(groups_in_use(control)) == 1, most_s=60.0)
        assert len(groups_aside(control)) == 3
        control.stop()
        with pytest.raises(NotPossibleError, match="the controller"):
            front.engine.ask(SetPolicy(policy="mell")).result(60.0)
        other = ToyControl(address=control.address, hosts=2, policy="consolidate")
        try:
            assert wait_for(
                lambda: (len(groups_in_use(other)), len(groups_aside(other))) == (1, 3),
                most_s=60.0,
            )
            assert wait_for(lambda: uses_all(front, other), most_s=60.0)
            check(front, ask_some(front, count=10, seed=15))
            check_at_rest(other, hosts)
        finally:
            other.stop()


def test_what_is_asked_while_a_front_end_stops_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with toy_hosts(hosts=1, num_pages=NUM_PAGES) as (_, _, front):
        asked: list[Future[Answer]] = []
        program = front.engine._program
        leave = program.leave

        def leave_and_ask() -> None:
            leave()  # its links are cut
            asked.append(front.engine.ask(SetPolicy(policy="mell")))

        monkeypatch.setattr(program, "leave", leave_and_ask)
        front.stop()
        (late,) = asked
        with pytest.raises(NotPossibleError, match="the server stops"):
            late.result(0)


def done(front: ToyFront, command: Command) -> bool:
    """Asks the controller; returns whether it has done that."""
    try:
        front.engine.ask(command).result(60.0)
    except (NotPossibleError, UnknownTargetError):
        return False
    return True


def do(front: ToyFront, command: Command) -> None:
    assert wait_for(lambda: done(front, command), most_s=60.0)


def move_some(front: ToyFront) -> None:
    """Has some requests move, as far as there is room."""
    placed = front.engine.ask(ListPlacements()).result(60.0).placements
    devices = {place.device for place in placed} - {None}
    for place in placed[:6]:
        for device in devices - {place.device}:
            done(front, Migrate(request=place.request, device=device))


def drains_all_but_one(front: ToyFront, control: ToyControl) -> bool:
    """Has a group set aside; returns whether one is left then."""
    left = [d for d in groups_in_use(control) if d not in groups_aside(control)]
    if len(left) > 1:
        done(front, Drain(device=left[0]))
    return len(left) == 1


def last_is_kept(front: ToyFront, control: ToyControl) -> bool:
    """Wants the last group set aside; returns whether that is refused as it should."""
    (*_, last) = [0, *(set(groups_in_use(control)) - {*groups_aside(control)})]
    try:
        front.engine.ask(Drain(device=last)).result(60.0)
    except NotPossibleError as error:
        return "is the last one that serves" in str(error)
    except UnknownTargetError:  # it has another number by now
        pass
    return False


def uses_all(front: ToyFront, control: ToyControl) -> bool:
    """Has groups used again; returns whether all are used."""
    for device in groups_aside(control):
        done(front, Undrain(device=device))
    return len(groups_in_use(control)) == 4


def groups_in_use(control: ToyControl) -> list[int]:
    """Returns the groups that serve or may, once the controller decides."""

    def look(control):
        coordinator = control.coordinator
        if coordinator is None or coordinator.is_adopting:
            return []
        devices = [d for h in coordinator.roll.hosts.values() for d in h.devices]
        ledger = coordinator.machine.ledger
        return sorted(d for d in devices if d in ledger.instances or ledger.is_idle(d))

    return control.ask(look)


def groups_aside(control: ToyControl) -> list[int]:
    """Returns the groups that are set aside, whatever they are called now."""

    def look(control):
        hosts = control.coordinator.roll.hosts if control.coordinator else {}
        return sorted(device for host in hosts.values() for device in host.aside)

    return control.ask(look)
