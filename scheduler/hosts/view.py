"""The view of a fleet is one plain value of what its controller knows, to be shown.

books, owners, roll, tally  ->  `overview_of`  ->  `Overview`

It is bounded: requests and moves beyond `MOST_REQUESTS` are counted, not listed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from mell_jax.scheduler.bounds import instances_bound
from mell_jax.scheduler.hosts.coordinator import Coordinator
from mell_jax.scheduler.hosts.roll import HostEntry
from mell_jax.scheduler.hosts.tally import Counts
from mell_jax.scheduler.ids import DeviceGroupId, Epoch, ModelId, RequestId
from mell_jax.scheduler.migration.records import MovePhase
from mell_jax.scheduler.placement.accounts import RequestAccount
from mell_jax.scheduler.transfer import Mode

MOST_REQUESTS = 2000
MOST_LINKS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSeen:
    """A device group is in the books, or was given back; pages are the books'."""

    device: DeviceGroupId
    number: int  # in its host
    model: ModelId | None  # None: it serves none
    is_open: bool = False  # its instance is ready
    is_closing: bool = False  # it serves what it has, and is given back then
    is_given_back: bool = False
    used_pages: int = 0
    reserved_pages: int = 0  # of requests on their way there
    paused: int = 0  # requests that cannot grow


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSeen:
    """A host serves with these device groups."""

    name: str
    epoch: Epoch
    groups: tuple[GroupSeen, ...]
    prefill_tokens_per_s: float  # of each group, for moves


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSeen:
    """A model needs at least so many device groups for all its requests."""

    name: ModelId
    lower_bound: int
    waiting: int  # requests without a place


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveSeen:
    """A request is on its way; `mode` and `phase` are None until it begins."""

    request: RequestId
    source: DeviceGroupId
    target: DeviceGroupId
    mode: Mode | None
    phase: MovePhase | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestsSeen:
    """These are the open requests as columns, request i in the i-th of each."""

    numbers: tuple[RequestId, ...] = ()
    models: tuple[int, ...] = ()  # which one of `Overview.models`
    devices: tuple[int, ...] = ()  # -1 while it waits for a place
    targets: tuple[int, ...] = ()  # -1 while it does not move
    pages: tuple[int, ...] = ()
    prompts: tuple[int, ...] = ()  # tokens; 0 while it is being taken in
    are_paused: tuple[bool, ...] = ()  # it cannot grow
    left_out: int = 0  # requests that are not listed


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSeen:
    """Pages go from one device group to another so fast."""

    source: DeviceGroupId
    target: DeviceGroupId
    bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """This is what a controller knows of its fleet.

    `generation` is the controller's: its counts begin at zero.
    """

    generation: int
    policy: str
    hosts: tuple[HostSeen, ...]
    models: tuple[ModelSeen, ...]
    moves: tuple[MoveSeen, ...]
    requests: RequestsSeen
    links: tuple[LinkSeen, ...]
    counts: Counts


def overview_of(coordinator: Coordinator) -> Overview:
    """Returns what a controller knows, once it has adopted what there is."""
    assert not coordinator.is_adopting, "nothing is known before it has adopted"
    return Overview(
        generation=coordinator.generation,
        policy=coordinator.policy,
        hosts=tuple(_hosts(coordinator)),
        models=tuple(_models(coordinator)),
        moves=tuple(islice(_moves(coordinator), MOST_REQUESTS)),
        requests=_requests(coordinator),
        links=tuple(islice(_links(coordinator), MOST_LINKS)),
        counts=coordinator.counts(),
    )


def _hosts(coordinator: Coordinator) -> Iterator[HostSeen]:
    for host in coordinator.roll.hosts.values():
        if host.is_serving:
            yield HostSeen(
                name=host.name,
                epoch=host.epoch,
                groups=tuple(
                    _group(coordinator, host, device) for device in host.devices
                ),
                prefill_tokens_per_s=host.prefill_tokens_per_s,
            )


def _group(
    coordinator: Coordinator, host: HostEntry, device: DeviceGroupId
) -> GroupSeen:
    ledger, number = coordinator.machine.ledger, host.admitted.index(device)
    books = ledger.instances.get(device)
    if books is None:
        return GroupSeen(
            device=device,
            number=number,
            model=None,
            is_given_back=not ledger.is_idle(device),
        )
    reserved = sum(request.pages for request in books.arriving.values())
    return GroupSeen(
        device=device,
        number=number,
        model=books.model,
        is_open=coordinator.is_open(device),
        is_closing=books.is_closing,
        used_pages=books.pages - reserved,
        reserved_pages=reserved,
        paused=sum(
            ledger.requests[request].device == device for request in books.stalled
        ),
    )


def _models(coordinator: Coordinator) -> Iterator[ModelSeen]:
    ledger = coordinator.machine.ledger
    found: dict[ModelId, list[RequestAccount]] = {name: [] for name in ledger.models}
    for request in ledger.requests.values():
        found[request.model].append(request)
    for name in ledger.models:
        pages = np.array([request.pages for request in found[name]], np.int64)
        yield ModelSeen(
            name=name,
            lower_bound=instances_bound(pages, spec=ledger.spec(name)),
            waiting=sum(request.device is None for request in found[name]),
        )


def _moves(coordinator: Coordinator) -> Iterator[MoveSeen]:
    """Yields the moves of the books, as far as the controller has them."""
    for move in coordinator.machine.ledger.moves.values():
        owner = coordinator.controller.owners.get(move.request.id)
        begun = owner.move if owner is not None else None
        has_begun = begun is not None and begun.target == move.target
        yield MoveSeen(
            request=move.request.id,
            source=move.source,
            target=move.target,
            mode=begun.order.mode if begun is not None and has_begun else None,
            phase=begun.phase if begun is not None and has_begun else None,
        )


def _requests(coordinator: Coordinator) -> RequestsSeen:
    ledger = coordinator.machine.ledger
    shown = list(islice(ledger.requests.values(), MOST_REQUESTS))
    places = {name: index for index, name in enumerate(ledger.models)}
    asked = [coordinator.requests.get(each.id) for each in shown]
    return RequestsSeen(
        numbers=tuple(each.id for each in shown),
        models=tuple(places[each.model] for each in shown),
        devices=tuple(-1 if e.device is None else e.device for e in shown),
        targets=tuple(
            -1 if each.move is None else ledger.moves[each.move].target
            for each in shown
        ),
        pages=tuple(each.pages for each in shown),
        prompts=tuple(0 if each is None else each.ask.prompt for each in asked),
        are_paused=tuple(
            each.device is not None
            and each.move is None
            and each.id in ledger.instances[each.device].stalled
            for each in shown
        ),
        left_out=len(ledger.requests) - len(shown),
    )


def _links(coordinator: Coordinator) -> Iterator[LinkSeen]:
    for source, target, speed in coordinator.link_speeds():
        hosts = (coordinator.roll.host_of(source), coordinator.roll.host_of(target))
        if None not in hosts:
            yield LinkSeen(source=source, target=target, bytes_per_s=speed)
