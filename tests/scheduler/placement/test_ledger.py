"""What policies are told of the books: changes, closing instances, means."""

from mell_jax.scheduler.ids import DeviceGroupId, ModelId, RequestId
from mell_jax.scheduler.placement.accounts import RequestAccount
from mell_jax.scheduler.placement.admission import admit
from mell_jax.scheduler.placement.events import ONLY_MODEL, Arrive
from mell_jax.scheduler.placement.fairness import choose_victim
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.placement.model import ModelSpec

A, B = DeviceGroupId(0), DeviceGroupId(1)


def ledger_of(*devices: DeviceGroupId, growth: float = 0.0) -> Ledger:
    """Instances of ten pages, open."""
    spec = ModelSpec(capacity_pages=10, growth_pages_per_s=growth)
    ledger = Ledger({ONLY_MODEL: spec}, look_s=0.0)
    for device in devices:
        ledger.add_idle(device)
        ledger.open(device, ONLY_MODEL)
    return ledger


def arrive(ledger: Ledger, number: int, pages: int) -> RequestAccount:
    event = Arrive(request=RequestId(number), pages=pages, model=ONLY_MODEL)
    request = admit(event, ledger=ledger, serial=number)
    assert isinstance(request, RequestAccount)
    return request


def test_opening_filling_and_closing_are_changes() -> None:
    ledger = ledger_of(A, B)
    assert list(ledger.changed) == [A, B]
    ledger.changed.clear()
    ledger.settle(arrive(ledger, 1, 4), B)
    assert list(ledger.changed) == [B]
    ledger.changed.clear()
    ledger.close(A, is_idle=True)
    assert list(ledger.changed) == [A]
    ledger.check()


def test_a_closing_instance_is_offered_to_nobody() -> None:
    ledger = ledger_of(A, B)
    ledger.settle(arrive(ledger, 1, 4), A)
    assert ledger.best_fit(ONLY_MODEL, 3) == A
    instance = ledger.instances[A]
    instance.is_closing = True
    ledger.refile(instance)
    assert ledger.best_fit(ONLY_MODEL, 3) == B
    assert list(ledger.emptiest_first(ONLY_MODEL)) == [B]
    assert not ledger.fits(instance, 1) and ledger.room(instance) == 6
    instance.is_closing = False
    ledger.refile(instance)
    assert ledger.best_fit(ONLY_MODEL, 3) == A
    assert list(ledger.emptiest_first(ONLY_MODEL)) == [B, A]


def test_a_device_of_lowest_id_is_next_and_one_that_left_is_not() -> None:
    ledger = ledger_of()
    for device in (3, 1, 2):
        ledger.add_idle(DeviceGroupId(device))
    assert ledger.next_idle() == 1
    ledger.drop_idle(DeviceGroupId(1))
    assert ledger.next_idle() == 2
    ledger.add_idle(DeviceGroupId(1))
    assert (ledger.next_idle(), ledger.idle_devices) == (1, 3)
    for device in (1, 2, 3):
        ledger.drop_idle(DeviceGroupId(device))
    assert (ledger.next_idle(), ledger.idle_devices) == (None, 0)


def test_means_are_of_what_arrived_and_of_what_ended() -> None:
    ledger = ledger_of(A, growth=2.0)
    requests = [arrive(ledger, n, pages) for n, pages in enumerate([1, 2, 6], 1)]
    assert ledger.mean_arrival(ONLY_MODEL) == 3.0
    assert ledger.expected_growth(ONLY_MODEL, seconds=3.0) == 0.0  # nobody runs
    for request in requests[:2]:
        ledger.settle(request, A)
    # Nobody has ended: two rows of two pages a second grow by 12 in three seconds.
    assert ledger.expected_growth(ONLY_MODEL, seconds=3.0) == 12.0
    requests[2].pages = 16  # it has grown by 10
    ledger.finished(requests[2])
    # 10 * (1 - exp(-12 / 10)) = 6.99
    assert ledger.expected_growth(ONLY_MODEL, seconds=3.0) == 6.0


def test_the_look_ahead_keeps_room_for_growth() -> None:
    ledger = ledger_of(A, growth=1.0)
    ledger.settle(arrive(ledger, 1, 3), A)
    assert ledger.best_fit(ONLY_MODEL, 7) == A
    ledger.look_ahead(2.0)  # two rows, the new one included, grow by two pages each
    assert ledger.look_pages(ONLY_MODEL) == 2.0
    assert ledger.best_fit(ONLY_MODEL, 4) is None
    assert ledger.best_fit(ONLY_MODEL, 3) == A
    assert ledger.slack(ledger.instances[A]) == 7


def test_pages_of_a_model_are_those_of_its_requests() -> None:
    ledger = ledger_of(A, B)
    assert (ledger.total_pages(ONLY_MODEL), ledger.idle_devices) == (0, 0)
    request = arrive(ledger, 1, 4)
    assert ledger.total_pages(ONLY_MODEL) == 0  # it waits
    ledger.settle(request, A)
    ledger.settle(arrive(ledger, 2, 3), B)
    assert ledger.total_pages(ONLY_MODEL) == 7
    ledger.settle(request, B)
    assert ledger.total_pages(ONLY_MODEL) == 7
    assert (ledger.instances[A].rows, ledger.instances[B].rows) == (0, 2)
    ledger.settle(request, None)
    assert ledger.total_pages(ONLY_MODEL) == 3


def test_an_instance_far_over_its_room_is_still_filed_as_the_fullest() -> None:
    ledger = ledger_of(A, B, growth=1000.0)
    ledger.settle(arrive(ledger, 1, 9), A)
    ledger.look_ahead(1.0)
    assert {ledger.instances[d].projected for d in (A, B)} == {-10}
    assert list(ledger.emptiest_first(ONLY_MODEL)) == [A, B]
    assert ledger.best_fit(ONLY_MODEL, -10) == A
    assert ledger.best_fit(ONLY_MODEL, -9) is None


def test_idle_devices_count_for_the_share_of_a_model() -> None:
    one, two = ModelId("one"), ModelId("two")
    ledger = Ledger(dict.fromkeys((one, two), ModelSpec(capacity_pages=10)), look_s=0.0)
    for device in range(4):
        ledger.add_idle(DeviceGroupId(device))
    for device in (A, B):
        ledger.open(device, one)
    # Two of four are the share of each, so nothing is too much before its turn is over.
    assert choose_victim(ledger, claimant=two, demanding=2) is None
    ledger.now_s = 10.0
    assert choose_victim(ledger, claimant=two, demanding=2) is ledger.instances[A]
    ledger.now_s = 9.9
    assert choose_victim(ledger, claimant=two, demanding=2) is None
    ledger.drop_idle(DeviceGroupId(3))  # one of three is: the emptiest, at once
    assert choose_victim(ledger, claimant=two, demanding=2) is ledger.instances[A]
