"""Who is let in: bounds on what waits and on what each tenant has open.

    enter -> Ticket -> count(prompt tokens) -> begin() per sample -> close()
             `-- open, queued until its first token --'

Samples are counted, not requests. A refusal comes before anything is tokenized, costs
microseconds and says when to come back. Pure: it is told the time and never waits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, final

from mell_jax.frontend.errors import OverloadedError

_SMOOTHING = 0.1  # weight of the latest wait in the mean
_MIN_RETRY_S, _MAX_RETRY_S = 1.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a front end takes; None where there is no bound.

    Attributes:
        max_queued: samples that have no token yet.
        max_queued_tokens: prompt tokens of these; one request alone may have more.
        max_tenant_open: samples of one tenant, with tokens or without.
        max_tenant_queued_tokens: as `max_queued_tokens`, of one tenant.
        queue_timeout_s: from the request to its first token.
        request_timeout_s: from the request to its end.

    Raises:
        ValueError: a bound is not above 0.
    """

    max_queued: int | None = None
    max_queued_tokens: int | None = None
    max_tenant_open: int | None = None
    max_tenant_queued_tokens: int | None = None
    queue_timeout_s: float | None = None
    request_timeout_s: float | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not (0 < value < float("inf")):
                raise ValueError(f"{name} must be above 0, got {value}")


@dataclass(slots=True)
class _Use:
    """Of one tenant, or of all together."""

    open: int = 0  # samples
    queued: int = 0  # samples
    queued_tokens: int = 0


@final
class Admission:
    """Counts what is inside; one event loop calls it."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float]) -> None:
        """Nothing is inside.

        Args:
            limits: what is let in.
            clock: seconds, never backwards.
        """
        self.limits = limits
        self._clock = clock
        self._all = _Use()
        self._tenants: dict[str, _Use] = {}
        self._mean_wait_s = 0.0

    @property
    def queued(self) -> int:
        """Samples without a token."""
        return self._all.queued

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens of samples without a token."""
        return self._all.queued_tokens

    @property
    def num_tenants(self) -> int:
        """Tenants with something open."""
        return len(self._tenants)

    def enter(self, *, tenant: str, samples: int) -> "Ticket":
        """Lets a request in; close the ticket, best with `with`.

        Raises:
            OverloadedError: a bound is reached; says which and when to come back.
        """
        use = self._tenants.get(tenant) or _Use()
        limits, everyone = self.limits, self._all
        if not _fits(use.open + samples, limits.max_tenant_open):
            raise self._refusal(
                f"this tenant has {use.open} samples open and {samples} more would "
                f"exceed its {limits.max_tenant_open}",
                reason="tenant_quota",
            )
        if not _fits(everyone.queued + samples, limits.max_queued):
            raise self._refusal(
                f"{everyone.queued} samples wait and {samples} more would exceed the "
                f"{limits.max_queued} that this server lets wait",
                reason="queue_full",
            )
        self._check_tokens(use, tokens=1)
        self._tenants[tenant] = use
        for each in (use, everyone):
            each.open += samples
            each.queued += samples
        return Ticket(
            self, tenant=tenant, use=use, samples=samples, entered_s=self._clock()
        )

    def _check_tokens(self, use: _Use, *, tokens: int) -> None:
        """Refuses prompt tokens on top of some; alone they may be as many as want."""
        for each, most, whose, reason in (
            (use, self.limits.max_tenant_queued_tokens, "this tenant", "tenant_quota"),
            (self._all, self.limits.max_queued_tokens, "this server", "queue_full"),
        ):
            total = each.queued_tokens + tokens
            if each.queued_tokens and not _fits(total, most):
                raise self._refusal(
                    f"{each.queued_tokens} prompt tokens wait and {tokens} more would "
                    f"exceed the {most} that {whose} may have waiting",
                    reason=reason,
                )

    def _refusal(self, message: str, *, reason: str) -> OverloadedError:
        wait_s = min(max(self._mean_wait_s, _MIN_RETRY_S), _MAX_RETRY_S)
        return OverloadedError(message, retry_after_s=wait_s, reason=reason)

    def _count(self, use: _Use, *, tokens: int) -> None:
        self._check_tokens(use, tokens=tokens)
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
    """One request inside."""

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
        self._admission._count(self._use, tokens=total)
        self._prompt_tokens = prompt_tokens

    def begin(self, index: int) -> bool:
        """A sample has a token, or its end; True for the first time it is told."""
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
