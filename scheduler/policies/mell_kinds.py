"""Where MELL looks: instances by kind, most recently activated or least loaded first.

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
from mell_jax.scheduler.placement.index import FreeIndex
from mell_jax.scheduler.placement.ledger import InstanceAccount, Ledger
from mell_jax.scheduler.policies.mell_items import Size, size_of

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
        """Whether it is an L-GPU without S or M."""
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
    """All instances, as of `refresh`."""

    def __init__(self) -> None:
        self._shapes: dict[DeviceGroupId, Shape] = {}
        self._models: dict[ModelId, _Index] = {}

    def refresh(self, ledger: Ledger) -> None:
        """Looks again at the instances that have changed."""
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
        return self._shapes.get(device)

    def latest(self, model: ModelId, kind: Size) -> DeviceGroupId | None:
        """The most recently activated instance of a kind."""
        return next(self.latest_first(model, kind), None)

    def latest_first(self, model: ModelId, kind: Size) -> Iterator[DeviceGroupId]:
        index = self._models.get(model)
        if index is not None:
            yield from (device for _, device in reversed(index.by_serial[kind]))

    def roomy(self, model: ModelId) -> list[DeviceGroupId]:
        """L- and M-GPUs, most room first."""
        index = self._models.get(model)
        return list(islice(index.takes_t.descending(), CANDIDATES)) if index else []

    def singles(self, model: ModelId) -> list[DeviceGroupId]:
        """L-GPUs without S or M, smallest L first."""
        index = self._models.get(model)
        return list(islice(index.singles.descending(), CANDIDATES)) if index else []

    def open_bundles(self, model: ModelId, pages: int) -> Iterator[DeviceGroupId]:
        """Instances whose open bundle could grow by `pages`, least room first."""
        index = self._models.get(model)
        return index.open_bundles.ascending(pages) if index else iter(())

    def partners(self, model: ModelId) -> Iterator[DeviceGroupId]:
        """S- and M-GPUs, the one with the smallest S or M first."""
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
    """Counts what an instance holds, arriving requests included."""
    spec = ledger.spec(instance.model)
    capacity = spec.capacity_pages
    counts = dict.fromkeys(Size, 0)
    light_rows, light_pages, bundle, least = 0, 0, 0, 0
    for request in instance.requests.values():
        pages = request.pages
        size = size_of(pages, capacity=capacity)
        counts[size] += 1
        if size <= Size.T:
            light_rows += 1
            light_pages += pages
            if size is Size.SMALL:
                bundle += pages
                if 8 * bundle > capacity:
                    bundle = 0
        elif size is not Size.L:
            least = min(least or pages, pages)
    for request in instance.arriving.values():
        counts[size_of(request.pages, capacity=capacity)] += 1
    kinds = [size for size, count in counts.items() if count and size > Size.T]
    hard_pages = instance.pages - light_pages
    return Shape(
        model=instance.model,
        serial=instance.serial,
        kind=max(kinds, default=Size.T if any(counts.values()) else Size.SMALL),
        small=counts[Size.S],
        medium=counts[Size.M],
        open_bundle_pages=bundle,
        room=instance.projected,
        room_over_t=spec.capacity(instance.rows - light_rows + 1) - hard_pages,
        least_partner=least,
    )
