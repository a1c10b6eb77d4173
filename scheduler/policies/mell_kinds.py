"""MELL looks through instances by kind, most recently activated or least loaded first.

The kind of an instance is the largest class that it holds; T if that is SMALL, and
SMALL if it holds nothing. All of this is read off the ledger: an instance that has
changed, in truth or in a draft, is looked at again before the next question, so there
is nothing to keep in step. The kinds are those of MELL, arXiv 2501.06709.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.placement.accounts import InstanceAccount
from mell_jax.scheduler.placement.index import FreeIndex
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.policies.mell_items import Size, borders

CANDIDATES = 16  # least loaded instances whose distances are compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """An instance as the rules see it."""

    model: ModelId
    serial: int
    kind: Size
    small: int  # requests of each class
    medium: int
    open_bundle_pages: int
    room: int  # after the look-ahead, as the ledger files it
    room_over_t: int  # room if its T's and small requests were gone
    least_partner: int  # pages of its smallest S or M that may move; 0: it has none

    @property
    def is_single(self) -> bool:
        """Tells whether it is an L-GPU without S or M."""
        return self.kind is Size.L and not self.small and not self.medium


class _Index:
    """The instances of one model."""

    def __init__(self, capacity: int) -> None:
        self.by_serial: dict[Size, list[tuple[int, DeviceGroupId]]] = {
            k: [] for k in Size
        }
        self.takes_t = FreeIndex(capacity)  # L- and M-GPUs by room
        self.open_bundles = FreeIndex(capacity)  # by room
        self.singles = FreeIndex(capacity)  # L-GPUs without S/M by room over T's
        self.partners = FreeIndex(capacity)  # S/M-GPUs by their smallest S/M


class Kinds:
    """All instances as they are now; those that changed are looked at when asked."""

    def __init__(self) -> None:
        self._ledger: Ledger | None = None
        self._shapes: dict[DeviceGroupId, Shape] = {}
        self._models: dict[ModelId, _Index] = {}

    def follow(self, ledger: Ledger) -> None:
        """All answers are about this ledger from now on."""
        self._ledger = ledger

    def _refresh(self) -> None:
        """Looks again at the instances that have changed."""
        ledger = self._ledger
        if ledger is None or not ledger.changed:
            return
        for device in ledger.changed:
            before = self._shapes.pop(device, None)
            if before is not None:
                self._unfile(device, before)
            instance = ledger.instances.get(device)
            if instance is not None and not instance.is_closing:
                shape = self._shapes[device] = shape_of(ledger, instance)
                if shape.model not in self._models:
                    capacity = ledger.spec(shape.model).capacity_pages
                    self._models[shape.model] = _Index(capacity)
                self._file(device, shape)
        ledger.changed.clear()

    def shape(self, device: DeviceGroupId) -> Shape | None:
        """None: it is not among those that may be used."""
        self._refresh()
        return self._shapes.get(device)

    def latest(self, model: ModelId, kind: Size) -> DeviceGroupId | None:
        """The most recently activated instance of a kind."""
        return next(self.latest_first(model, kind), None)

    def latest_first(self, model: ModelId, kind: Size) -> Iterator[DeviceGroupId]:
        self._refresh()
        index = self._models.get(model)
        if index is not None:
            yield from (device for _, device in reversed(index.by_serial[kind]))

    def roomy(self, model: ModelId) -> list[DeviceGroupId]:
        """L- and M-GPUs, most room first."""
        self._refresh()
        index = self._models.get(model)
        return list(islice(index.takes_t.descending(), CANDIDATES)) if index else []

    def singles(self, model: ModelId) -> list[DeviceGroupId]:
        """L-GPUs without S or M, smallest L first."""
        self._refresh()
        index = self._models.get(model)
        return list(islice(index.singles.descending(), CANDIDATES)) if index else []

    def open_bundles(self, model: ModelId, pages: int) -> Iterator[DeviceGroupId]:
        """Instances whose open bundle could grow by `pages`, least room first."""
        self._refresh()
        index = self._models.get(model)
        return index.open_bundles.ascending(pages) if index else iter(())

    def partners(self, model: ModelId) -> Iterator[DeviceGroupId]:
        """S- and M-GPUs, the one with the smallest S or M first."""
        self._refresh()
        index = self._models.get(model)
        return index.partners.ascending(1) if index else iter(())

    def _file(self, device: DeviceGroupId, shape: Shape) -> None:
        index = self._models[shape.model]
        insort(index.by_serial[shape.kind], (shape.serial, device))
        for places, room in _places(index, shape):
            places.add(device, room=room)

    def _unfile(self, device: DeviceGroupId, shape: Shape) -> None:
        index = self._models[shape.model]
        recent = index.by_serial[shape.kind]
        del recent[bisect_left(recent, (shape.serial, device))]
        for places, room in _places(index, shape):
            places.discard(device, room=room)


def _places(index: _Index, shape: Shape) -> Iterator[tuple[FreeIndex, int]]:
    if shape.kind >= Size.M and shape.room >= 0:
        yield index.takes_t, shape.room
    if shape.open_bundle_pages and shape.room >= 0:
        yield index.open_bundles, shape.room
    if shape.is_single and shape.room_over_t >= 0:
        yield index.singles, shape.room_over_t
    if shape.kind in (Size.S, Size.M) and shape.least_partner:
        yield index.partners, shape.least_partner


def shape_of(ledger: Ledger, instance: InstanceAccount) -> Shape:
    """Counts what an instance holds, arriving requests included.

    It runs after every change, so classes are told by their borders in pages.
    """
    spec = ledger.spec(instance.model)
    eighth, quarter, third, half = borders(spec.capacity_pages)
    small = medium = large = light_rows = light_pages = bundle = least = 0
    has_t = False
    for request in instance.requests.values():
        pages = request.pages
        if pages <= quarter:
            light_rows += 1
            light_pages += pages
            if pages > eighth:
                has_t = True
            else:
                bundle += pages
                if bundle > eighth:
                    bundle = 0
            continue
        if pages > half:
            large += 1
            continue
        if pages <= third:
            small += 1
        else:
            medium += 1
        if not least or pages < least:
            least = pages
    for request in instance.arriving.values():
        pages = request.pages
        large += pages > half
        medium += third < pages <= half
        small += quarter < pages <= third
        has_t = has_t or pages <= quarter
    if large or medium or small:
        kind = Size.L if large else Size.M if medium else Size.S
    else:
        kind = Size.T if has_t or light_rows else Size.SMALL
    return Shape(
        model=instance.model,
        serial=instance.serial,
        kind=kind,
        small=small,
        medium=medium,
        open_bundle_pages=bundle,
        room=instance.projected,
        room_over_t=spec.capacity(instance.rows - light_rows + 1)
        - (instance.pages - light_pages),
        least_partner=least,
    )
