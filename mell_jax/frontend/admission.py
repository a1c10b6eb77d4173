"""Admission bounds what waits and what each tenant has open.

    enter -> Ticket -> count(prompt tokens) -> begin() per sample -> close()
             `-- open, queued until its first token --'

Samples are counted, not requests, and those of other front ends too, as far as these
have told. Of a bound that is reached tenants have parts: one with less than its part
comes in all the same, until twice the bound is inside. A refusal comes before anything
is tokenized, costs microseconds and says when to come back. Pure: it is told the time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, final

from mell_jax.engine.params import InvalidRequestError
from mell_jax.frontend.errors import OverloadedError
from mell_jax.frontend.limits import AdmissionLimits
from mell_jax.frontend.share import NO_USE, NOTHING_HELD, Held, Use

_SMOOTHING = 0.1  # weight of the latest wait in the mean
_MIN_RETRY_S, _MAX_RETRY_S = 1.0, 60.0
_MOST_OVER = 2  # times a bound that tenants below their parts may fill
_PARTS = 8  # growth by one of them, of any bound, is worth telling at once


@dataclass(slots=True)
class _Use:
    """Counts what one tenant has inside, or all together."""

    open: int = 0  # samples
    queued: int = 0  # samples
    queued_tokens: int = 0
    weight: float = 1.0

    def frozen(self) -> Use:
        return Use(open=self.open, queued=self.queued, queued_tokens=self.queued_tokens)


@final
class Admission:
    """Counts what is inside; one event loop calls it.

    Attributes:
        others: what is inside at other front ends, as of their latest word.
    """

    def __init__(self, limits: AdmissionLimits, *, clock: Callable[[], float]) -> None:
        """Starts with nothing inside.

        Args:
            limits: what is let in.
            clock: seconds, never backwards.
        """
        self.limits = limits
        self._clock = clock
        self._all = _Use()
        self._tenants: dict[str, _Use] = {}
        self._mean_wait_s = 0.0
        self.others = NOTHING_HELD
        self._told = NOTHING_HELD  # to the others
        self._has_tenant_bounds = not (
            limits.max_tenant_open is None and limits.max_tenant_queued_tokens is None
        )
        self._has_queue_bounds = not (
            limits.max_queued is None and limits.max_queued_tokens is None
        )

    @property
    def queued(self) -> int:
        """Counts the samples without a token."""
        return self._all.queued

    @property
    def queued_tokens(self) -> int:
        """Counts the prompt tokens of samples without a token."""
        return self._all.queued_tokens

    @property
    def num_tenants(self) -> int:
        """Counts the tenants with something open."""
        return len(self._tenants)

    def held(self, *, requests: int) -> Held:
        """Returns what is inside, to be told to the other front ends.

        Args:
            requests: that are open.
        """
        tenants = {
            name: use.frozen()
            for name, use in self._tenants.items()
            if self._is_told(name)
        }
        self._told = Held(
            requests=requests, everyone=self._all.frozen(), tenants=tenants
        )
        return self._told

    def grown(self, tenant: str, *, requests: int, most_requests: int) -> Held | None:
        """Returns what one tenant has inside, once that is worth telling at once.

        It is when something has grown by more than an eighth of its bound since it was
        told; None otherwise.

        Args:
            tenant: for whom something was let in.
            requests: that are open.
            most_requests: that may be.
        """
        limits, told, everyone = self.limits, self._told, self._all
        use, before = self._of(tenant), told.tenants.get(tenant, NO_USE)
        tokens = everyone.queued_tokens - told.everyone.queued_tokens
        for growth, most in (
            (requests - told.requests, most_requests),
            (everyone.queued - told.everyone.queued, limits.max_queued),
            (tokens, limits.max_queued_tokens),
            (use.open - before.open, limits.max_tenant_open),
            (use.queued_tokens - before.queued_tokens, limits.max_tenant_queued_tokens),
        ):
            if not _fits(growth * _PARTS, most):
                break
        else:
            return None
        tenants = {tenant: use.frozen()} if self._is_told(tenant) else {}
        part = Held(requests=requests, everyone=everyone.frozen(), tenants=tenants)
        self._told = told.updated(part)
        return part

    def check_size(self, samples: int) -> None:
        """Refuses a request that would not fit if nothing else was there.

        Raises:
            InvalidRequestError: it has more samples than a bound.
        """
        for most, what in (
            (self.limits.max_queued, "this server lets wait"),
            (self.limits.max_tenant_open, "a tenant may have open"),
        ):
            if not _fits(samples, most):
                raise InvalidRequestError(
                    "n",
                    f"asks for {samples} samples, of all prompts together, and {what} "
                    f"at most {most}; ask for fewer",
                )

    def enter(self, *, tenant: str, samples: int, weight: float = 1.0) -> "Ticket":
        """Lets a request in; close the ticket, best with `with`.

        Args:
            tenant: whose request it is.
            samples: that it has.
            weight: of the tenant's part where several tenants wait.

        Raises:
            InvalidRequestError: it has more samples than a bound; see `check_size`.
            OverloadedError: a bound is reached; says which and when to come back.
        """
        self.check_size(samples)
        use = self._of(tenant)
        use.weight = weight
        limits, everyone = self.limits, self._all
        open_ = use.open + self._others_of(tenant).open
        if not _fits(open_ + samples, limits.max_tenant_open):
            raise self._refusal(
                f"this tenant has {open_} samples open and {samples} more would "
                f"exceed its {limits.max_tenant_open}",
                reason="tenant_quota",
            )
        queued = everyone.queued + self.others.everyone.queued
        mine = use.queued + self._others_of(tenant).queued
        if not _fits(queued + samples, limits.max_queued) and not self._is_due(
            tenant, use, mine + samples, total=queued + samples, most=limits.max_queued
        ):
            raise self._refusal(
                f"{queued} samples wait and {samples} more would exceed the "
                f"{limits.max_queued} that this server lets wait",
                reason="queue_full",
            )
        self._check_tokens(tenant, use, tokens=1)
        self._tenants[tenant] = use
        for each in (use, everyone):
            each.open += samples
            each.queued += samples
        return Ticket(
            self, tenant=tenant, use=use, samples=samples, entered_s=self._clock()
        )

    def _of(self, tenant: str) -> _Use:
        return self._tenants.get(tenant) or _Use()

    def _others_of(self, tenant: str) -> Use:
        if self._is_told(tenant):
            return self.others.tenants.get(tenant, NO_USE)
        everyone, told = self.others.everyone, self.others.tenants.values()
        return Use(
            open=max(everyone.open - sum(use.open for use in told), 0),
            queued=max(everyone.queued - sum(use.queued for use in told), 0),
            queued_tokens=max(
                everyone.queued_tokens - sum(use.queued_tokens for use in told), 0
            ),
        )

    def _check_tokens(self, tenant: str, use: _Use, *, tokens: int) -> None:
        """Refuses prompt tokens on top of some; alone they may be as many as want."""
        limits, everyone = self.limits, self.others.everyone
        mine = use.queued_tokens + self._others_of(tenant).queued_tokens
        most = limits.max_tenant_queued_tokens
        if mine and not _fits(mine + tokens, most):
            raise self._refusal(
                f"{mine} prompt tokens wait and {tokens} more would exceed the {most} "
                "that this tenant may have waiting",
                reason="tenant_quota",
            )
        queued = self._all.queued_tokens + everyone.queued_tokens
        most = limits.max_queued_tokens
        if queued and not (
            _fits(queued + tokens, most)
            or self._is_due(
                tenant, use, mine + tokens, total=queued + tokens, most=most
            )
        ):
            raise self._refusal(
                f"{queued} prompt tokens wait and {tokens} more would exceed the "
                f"{most} that this server may have waiting",
                reason="queue_full",
            )

    def _is_told(self, tenant: str) -> bool:
        """Returns whether other front ends need to know what a tenant has inside.

        What callers without a name have is what everyone has, less all that is told.
        """
        return self._has_tenant_bounds or (self._has_queue_bounds and bool(tenant))

    def _is_due(
        self, tenant: str, use: _Use, mine: int, *, total: int, most: int | None
    ) -> bool:
        """Returns whether a tenant may have `mine` though that goes over a bound."""
        if most is None or total > _MOST_OVER * most:
            return False
        weights = {
            name: one.weight for name, one in self._tenants.items() if one.queued
        }
        for name in (*self.others.tenants, ""):
            if self._others_of(name).queued:
                weights.setdefault(name, 1.0)  # its own front end knows it better
        weights[tenant] = use.weight
        return len(weights) > 1 and mine <= most * use.weight / sum(weights.values())

    def _refusal(self, message: str, *, reason: str) -> OverloadedError:
        wait_s = min(max(self._mean_wait_s, _MIN_RETRY_S), _MAX_RETRY_S)
        return OverloadedError(message, retry_after_s=wait_s, reason=reason)

    def _count(self, tenant: str, use: _Use, *, tokens: int) -> None:
        self._check_tokens(tenant, use, tokens=tokens)
        for each in (use, self._all):
            each.queued_tokens += tokens

    def _begin(self, use: _Use, *, tokens: int, entered_s: float | None) -> None:
        for each in (use, self._all):
            each.queued -= 1
            each.queued_tokens -= tokens
        if entered_s is not None:
            wait_s = self._clock() - entered_s
            self._mean_wait_s += _SMOOTHING * (wait_s - self._mean_wait_s)

    def _leave(self, tenant: str, use: _Use, *, samples: int) -> None:
        for each in (use, self._all):
            each.open -= samples
        if not use.open:
            del self._tenants[tenant]


@final
class Ticket:
    """A ticket stands for one request that was let in."""

    def __init__(
        self,
        admission: Admission,
        *,
        tenant: str,
        use: _Use,
        samples: int,
        entered_s: float,
    ) -> None:
        self._admission = admission
        self._tenant = tenant
        self._use = use
        self._samples = samples
        self._entered_s = entered_s
        self._prompt_tokens = 0  # of one sample
        self._waiting = set(range(samples))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def count(self, prompt_tokens: int) -> None:
        """Tells how long the prompt is, once it is known.

        Raises:
            OverloadedError: too many prompt tokens wait already.
        """
        total = prompt_tokens * self._samples
        self._admission._count(self._tenant, self._use, tokens=total)
        self._prompt_tokens = prompt_tokens

    def begin(self, index: int) -> bool:
        """Records a sample's first token, or its end; returns True the first time."""
        if index not in self._waiting:
            return False
        self._waiting.discard(index)
        self._admission._begin(
            self._use, tokens=self._prompt_tokens, entered_s=self._entered_s
        )
        return True

    def close(self) -> None:
        """Gives everything back; once."""
        for _ in self._waiting:
            self._admission._begin(
                self._use, tokens=self._prompt_tokens, entered_s=None
            )
        self._waiting.clear()
        self._admission._leave(self._tenant, self._use, samples=self._samples)
        self._samples = 0


def _fits(total: int, most: int | None) -> bool:
    return most is None or total <= most
