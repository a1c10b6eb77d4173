"""The instances of one model on one kind of devices share books."""

from mell_jax.scheduler.ids import KindId
from mell_jax.scheduler.placement.index import FreeIndex
from mell_jax.scheduler.placement.model import ModelSpec


class KindBooks:
    """The books have a kind's limits and price, and its instances by projected room.

    Only the ledger changes them.
    """

    __slots__ = (
        "count",
        "index",
        "kind",
        "limit",
        "look_pages",
        "price_per_hour",
        "rows",
        "spec",
        "worth_pages",
    )

    def __init__(
        self, kind: KindId, *, spec: ModelSpec, price_per_hour: float, look_s: float
    ) -> None:
        self.kind = kind
        self.spec = spec
        self.price_per_hour = price_per_hour
        self.limit = spec.capacity(1)  # pages of the largest request that fits
        self.worth_pages = 0.0  # of the cheapest room, that cost as much
        self.index = FreeIndex(spec.capacity_pages, lowest=-spec.capacity_pages)
        self.look_pages = look_s * spec.growth_pages_per_s
        self.count = 0  # of instances
        self.rows = 0  # on them

    @property
    def price_per_page(self) -> float:
        return self.price_per_hour / self.spec.capacity_pages
