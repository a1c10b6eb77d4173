"""Tenants have accounts: what each has placed of each model, and who is there at all.

The ledger keeps them as requests come, are placed, grow and go; `shares.py` reads them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from mell_jax.scheduler.fair_queue import Tenant
from mell_jax.scheduler.ids import ModelId


class TenantAccount:
    """An account says what the requests of a tenant hold, for one model."""

    __slots__ = ("live", "model", "pages", "rows", "tenant")

    def __init__(self, tenant: Tenant, *, model: ModelId) -> None:
        self.tenant = tenant
        self.model = model
        self.live = 0  # requests, waiting or placed
        self.rows = 0  # requests that are placed
        self.pages = 0  # of these; once for a move in flight

    @property
    def weight(self) -> float:
        return self.tenant.weight

    def charge(self, *, pages: int, rows: int = 0) -> None:
        self.pages += pages
        self.rows += rows


class TenantBooks:
    """The books have an account for each tenant with a request."""

    def __init__(self, models: Iterable[ModelId]) -> None:
        self._accounts: dict[ModelId, dict[str, TenantAccount]] = {
            model: {} for model in models
        }

    def of_model(self, model: ModelId) -> Mapping[str, TenantAccount]:
        """Returns the accounts of a model, by tenant; do not change it."""
        return self._accounts[model]

    def is_shared(self, model: ModelId) -> bool:
        """Returns whether several tenants have requests for a model."""
        return len(self._accounts[model]) > 1

    def enter(self, model: ModelId, tenant: Tenant) -> TenantAccount:
        """Returns the account of a request that has arrived; `leave` undoes it."""
        accounts = self._accounts[model]
        account = accounts.get(tenant.name)
        if account is None:
            account = accounts[tenant.name] = TenantAccount(tenant, model=model)
        account.tenant = tenant
        account.live += 1
        return account

    def leave(self, account: TenantAccount) -> None:
        """Takes note of the end of a request."""
        account.live -= 1
        if not account.live:
            assert not (account.rows or account.pages), "a tenant left with pages"
            del self._accounts[account.model][account.tenant.name]

    def check(self, requests: Iterable[tuple[TenantAccount, int, bool]]) -> None:
        """Recounts everything; for tests.

        Args:
          requests: account, pages, and whether it is placed, of each that is live.

        Raises:
          AssertionError: the books do not balance.
        """
        live: Counter[TenantAccount] = Counter()
        rows: Counter[TenantAccount] = Counter()
        pages: Counter[TenantAccount] = Counter()
        for account, size, is_placed in requests:
            live[account] += 1
            rows[account] += is_placed
            pages[account] += size * is_placed
        known = [a for books in self._accounts.values() for a in books.values()]
        assert set(known) == set(live), "tenants with nothing, or without an account"
        for account in known:
            counted = (live[account], rows[account], pages[account])
            noted = (account.live, account.rows, account.pages)
            assert noted == counted, f"{account.tenant}: {noted}, counted {counted}"
