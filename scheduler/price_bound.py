"""Tells how little money devices of several kinds cost for requests of given sizes.

Let u_k be a dual feasible function of kind k: whatever requests one of its devices
holds, their u_k add up to at most 1. A device of kind k at price p_k then costs at
least the sum of p_k * u_k(s) over what it holds, and so at least the sum of

    w(s) = min over the kinds k that can hold s of p_k * u_k(s)

Every request is on some device, so no fleet costs less than the sum of w over all
requests. That is the linear relaxation in which a request may be cut into parts that
lie on different devices. The u_k used here are, for a threshold a <= C_k / 2,

    1 if s > C_k - a        s / C_k if a <= s <= C_k - a        0 if s < a

(what is larger than C_k - a leaves no room for another of at least a); 1 for
s > C_k / 2 and 0 below; and the share of the step-time budget. Of a single kind their
maximum, rounded up, is Martello and Toth's L2.

There may be no more than N_k devices of a kind. For any m_k >= 0 a fleet costs at least
the bound at prices p_k + m_k less the sum of m_k * N_k, since m_k * n_k <= m_k * N_k
for the n_k devices that it has; m is chosen to make that large (Lagrange). At last the
bound is rounded up to the price of whole devices that can hold all pages.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mell_jax.scheduler.bounds import Sizes, instances_bound
from mell_jax.scheduler.placement.model import ModelSpec

Floats = npt.NDArray[np.float64]
THRESHOLDS = 16  # tried of each kind
ROUNDS = 3  # of raising the prices of what is scarce
MOST_FLEETS = 100_000  # of whole devices that are looked at
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """So many devices can be had at a price, each of which holds what `spec` says."""

    spec: ModelSpec
    price_per_hour: float
    count: float = math.inf


def price_bound(sizes: Sizes, *, offers: Sequence[Offer]) -> float:
    """Returns what any fleet for requests of `sizes` [n] pages costs at least an hour.

    Where all devices are alike it is the bound of their number, times the price.

    Raises:
      ValueError: no kind can hold a request.
    """
    if not len(sizes):
        return 0.0
    kinds = _merge(offers)
    largest = max(offer.spec.capacity(1) for offer in kinds)
    if sizes.max() > largest:
        raise ValueError(
            f"a request of {sizes.max()} pages fits no kind: the largest holds "
            f"{largest}; leave it out, it is rejected"
        )
    if len(kinds) == 1:
        return kinds[0].price_per_hour * instances_bound(sizes, spec=kinds[0].spec)
    relaxed = _Relaxed(sizes, offers=kinds)
    best = max(relaxed.with_counts(shares) for shares in relaxed.best_shares())
    return _round_up(best, kinds, pages=int(sizes.sum()))


def _merge(offers: Sequence[Offer]) -> list[Offer]:
    """Returns the offers with those that are alike as one."""
    merged: list[Offer] = []
    for offer in offers:
        for at, other in enumerate(merged):
            if (other.spec, other.price_per_hour) == (offer.spec, offer.price_per_hour):
                merged[at] = replace(other, count=other.count + offer.count)
                break
        else:
            merged.append(offer)
    return merged


class _Relaxed:
    """The relaxation for distinct sizes [s], each so many times; kinds are [k]."""

    def __init__(self, sizes: Sizes, *, offers: Sequence[Offer]) -> None:
        self._sizes, self._times = np.unique(sizes, return_counts=True)
        self._offers = offers
        self._prices = np.array([offer.price_per_hour for offer in offers])
        self._limits = [offer.spec.capacity(1) for offer in offers]

    def best_shares(self) -> list[Floats]:
        """Returns shares [k, s]: by volume alone, and those that bound best.

        Thresholds of the same rank are tried for all kinds, then those of each.
        """
        tables = [self._table(kind) for kind in range(len(self._offers))]
        volume = np.stack([table[0] for table in tables])
        ranks = range(max(map(len, tables)))
        alike = [np.stack([t[min(n, len(t) - 1)] for t in tables]) for n in ranks]
        best = max(alike, key=lambda shares: self._cost(shares, self._prices))
        for kind, table in [*enumerate(tables)] * ROUNDS:
            costs = self._prices[:, None] * best
            costs[kind] = math.inf
            least = np.minimum(self._prices[kind] * table, costs.min(axis=0))
            best[kind] = table[int((least @ self._times).argmax())]
        return [volume, best]

    def _table(self, kind: int) -> Floats:
        """Returns shares [t, s] of a kind; those by volume come first."""
        limit = self._limits[kind]
        thresholds = self._thresholds(limit)
        shares = [_share(self._sizes, limit=limit, least=a) for a in thresholds]
        spec, step = self._offers[kind].spec, self._offers[kind].spec.step_time
        spare_s = spec.step_budget_s - step.fixed_s
        if 0 < spare_s < math.inf:
            times = (step.row_s + step.page_s * self._sizes) / spare_s
            shares.append(np.where(self._sizes > limit, math.inf, times))
        return np.stack(shares)

    def _thresholds(self, limit: int) -> Floats:
        """Returns 0, a few sizes up to half a device, and more than half."""
        small = self._sizes[self._sizes <= limit / 2].astype(np.float64)
        few = np.linspace(0, len(small) - 1, min(len(small), THRESHOLDS)).astype(int)
        return np.array([0.0, *small[few], math.inf])

    def _cost(self, shares: Floats, prices: Floats) -> float:
        least = (prices[:, None] * shares).min(axis=0)
        return float(least @ self._times)

    def with_counts(self, shares: Floats) -> float:
        """Returns the bound of such shares when no kind has more than its count."""
        counts = np.array([offer.count for offer in self._offers])
        more = np.zeros(len(counts))  # on the prices, of what is scarce
        best = self._cost(shares, self._prices)
        for _ in range(ROUNDS):
            for kind in np.flatnonzero(counts < math.inf).tolist():
                more[kind] = self._raise(shares, more, kind, count=counts[kind])
            scarce = more > 0
            paid = self._cost(shares, self._prices + more)
            best = max(best, paid - float(more[scarce] @ counts[scarce]))
        return best

    def _raise(self, shares: Floats, more: Floats, kind: int, *, count: float) -> float:
        """Returns how much dearer a kind must be so that no more is put on it.

        Requests leave it one after the other as it becomes dearer, those first for
        which another kind is nearly as cheap; those that fit nowhere else stay.
        """
        costs = (self._prices + more)[:, None] * shares
        costs[kind] = math.inf
        others, own = costs.min(axis=0), shares[kind]
        here = np.isfinite(own) & (own > 0)
        others, own, times = others[here], own[here], self._times[here]
        borders = others / own - self._prices[kind]  # how much dearer, until it leaves
        order = np.argsort(borders)
        borders, loads = borders[order], (own * times)[order]
        left = loads.sum() - loads.cumsum()
        stays = loads[borders > 0].sum()
        leaves = np.isfinite(borders) & (borders > 0)
        if stays <= count or not leaves.any():
            return 0.0
        enough = leaves & (left <= count)
        return float(borders[enough][0] if enough.any() else borders[leaves][-1])


def _share(sizes: Sizes, *, limit: int, least: float) -> Floats:
    """Returns a dual feasible function of the sizes that fit, and inf of others."""
    shares = sizes / limit
    if least > limit / 2:
        shares = (sizes > limit / 2).astype(np.float64)
    else:
        shares[sizes > limit - least] = 1.0
        shares[sizes < least] = 0.0
    shares[sizes > limit] = math.inf
    return shares


def _round_up(bound: float, offers: Sequence[Offer], *, pages: int) -> float:
    """Returns the least price of whole devices that hold so many pages in all.

    It is at least `bound`; the bound itself where there are too many such fleets, or
    too few devices.
    """
    *dear, cheapest = sorted(offers, key=lambda offer: -offer.price_per_hour)
    most = [_most_needed(bound, offer, pages=pages) for offer in dear]
    if math.prod(count + 1 for count in most) > MOST_FLEETS:
        return bound
    counts = np.indices([count + 1 for count in most]).reshape(len(dear), -1)
    paid = np.array([offer.price_per_hour for offer in dear]) @ counts
    held = np.array([offer.spec.capacity(1) for offer in dear]) @ counts
    slack = ROUNDING * max(1.0, bound)
    by_price = np.ceil((bound - paid - slack) / cheapest.price_per_hour)
    by_pages = np.ceil((pages - held) / cheapest.spec.capacity(1))
    more = np.maximum(0, np.maximum(by_price, by_pages))
    prices = (paid + more * cheapest.price_per_hour)[more <= cheapest.count]
    return float(prices.min()) if len(prices) else bound


def _most_needed(bound: float, offer: Offer, *, pages: int) -> int:
    """Returns how many of a kind are enough by themselves, or all that there are."""
    enough = math.ceil(
        max(bound / offer.price_per_hour, pages / offer.spec.capacity(1))
    )
    return int(min(offer.count, enough))
