"""A draft is what has changed, until it is undone."""

from mell_jax.scheduler.ids import DeviceGroupId, ModelId, RequestId
from mell_jax.scheduler.placement.accounts import RequestAccount
from mell_jax.scheduler.placement.admission import admit
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.events import Arrive
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.placement.model import ModelSpec

A, B, C = DeviceGroupId(0), DeviceGroupId(1), DeviceGroupId(2)
NAMES = tuple(ModelId(name) for name in ("m", "a", "z"))


def draft_of(devices: int) -> Draft:
    """Models m, a and z of ten pages a device; all devices are idle."""
    ledger = Ledger(dict.fromkeys(NAMES, ModelSpec(capacity_pages=10)), look_s=0.0)
    for device in range(devices):
        ledger.add_idle(DeviceGroupId(device))
    return Draft(ledger)


def arrive(
    draft: Draft, number: int, *, home: DeviceGroupId | None = None
) -> RequestAccount:
    event = Arrive(request=RequestId(number), pages=2, model=NAMES[0])
    request = admit(event, ledger=draft.ledger, serial=number)
    assert isinstance(request, RequestAccount)
    draft.ledger.settle(request, home)
    return request


def test_the_difference_is_from_the_first_place_to_the_last() -> None:
    draft = draft_of(3)
    for device in (A, B, C):
        draft.ledger.open(device, NAMES[0])
    r, s = arrive(draft, 1, home=A), arrive(draft, 2, home=A)
    new, gone = arrive(draft, 3), arrive(draft, 4, home=B)
    assert not draft.is_touched
    for request, way in ((r, (B, C)), (s, (B, A)), (new, (B,)), (gone, (None,))):
        for device in way:
            draft.shift(request, device)
    assert draft.is_touched
    assert draft.difference() == [(r, C), (new, B), (gone, None)]
    assert draft.moves() == [(r, A, C)]
    draft.clear()
    assert not draft.is_touched and draft.difference() == []
    assert [request.device for request in (r, s, new, gone)] == [A, A, None, B]
    draft.ledger.check()


def test_a_savepoint_is_gone_back_to() -> None:
    draft = draft_of(2)
    draft.ledger.open(A, NAMES[0])
    r = arrive(draft, 1, home=A)
    opened = draft.activate(NAMES[0])
    assert opened is not None and opened.device == B
    mark = draft.savepoint()
    draft.shift(r, B)
    emptied = draft.ledger.instances[A]
    assert draft.park(emptied) and draft.parked == (A,)
    assert draft.ledger.is_idle(A)
    draft.rollback(mark)
    assert (r.device, draft.parked) == (A, ())
    assert draft.ledger.instances[A] is emptied
    assert list(draft.ledger.instances) == [B, A]
    draft.rollback()
    assert list(draft.ledger.instances) == [A]
    assert draft.ledger.is_idle(B)
    draft.ledger.check()


def test_the_last_instance_of_a_model_is_not_parked() -> None:
    draft = draft_of(1)
    draft.ledger.open(A, NAMES[0])
    assert not draft.park(draft.ledger.instances[A])
    assert not draft.is_touched


def test_an_empty_instance_of_any_other_model_is_taken_and_none_of_its_own() -> None:
    for owner in NAMES:
        draft = draft_of(1)
        draft.ledger.open(A, owner)
        assert draft.activate(owner) is None  # it is its own
        for other in NAMES:
            if other != owner:
                taken = draft.activate(other)
                assert taken is not None and (taken.device, taken.model) == (A, other)
                assert draft.parked == (A,)
                draft.clear()
                assert draft.ledger.instances[A].model == owner


def test_an_instance_that_holds_something_is_not_taken() -> None:
    draft = draft_of(1)
    draft.ledger.open(A, NAMES[0])
    arrive(draft, 1, home=A)
    assert draft.activate(NAMES[1]) is None
