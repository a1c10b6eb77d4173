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
        "work_price",
        "worth_pages",
    )

    def __init__(
        self,
        kind: KindId,
        *,
        spec: ModelSpec,
        price_per_hour: float,
        speed: float,
        look_s: float,
    ) -> None:
        self.kind = kind
        self.spec = spec
        self.price_per_hour = price_per_hour
        self.work_price = price_per_hour / speed  # of an hour's work at speed 1
        self.limit = spec.capacity(1)  # pages of the largest request that fits
        self.worth_pages = 0.0  # of the cheapest room, that cost as much
        self.index = FreeIndex(spec.capacity_pages, lowest=-spec.capacity_pages)
        self.look_pages = look_s * spec.growth_pages_per_s
        self.count = 0  # of instances
        self.rows = 0  # on them

    @property
    def page_price(self) -> float:
        """Returns what room for a page costs, for the same work."""
        return self.work_price / self.spec.capacity_pages
