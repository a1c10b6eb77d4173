"""The bounds of what a server takes; `admission.py` keeps them."""

from dataclasses import dataclass

from mell_jax.settings.setting import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """A server takes no more than this; None is no bound.

    Raises:
        ValueError: a bound is not above 0.
    """

    max_queued: int | None = setting(
        None,
        help="At most this many samples wait for their first token; a request with "
        "more samples is refused. A tenant with less than its part of them may still "
        "come when they are all there, until twice as many wait.",
    )
    max_queued_tokens: int | None = setting(
        None,
        help="At most this many prompt tokens wait; one request alone may have more.",
    )
    max_tenant_open: int | None = setting(
        None,
        help="One tenant has at most this many samples open; by default there is no "
        "bound.",
    )
    max_tenant_queued_tokens: int | None = setting(
        None,
        help="At most this many prompt tokens of one tenant wait; by default there is "
        "no bound.",
    )
    queue_timeout_s: float | None = setting(
        None, help="A request fails when its first token takes longer than this."
    )
    request_timeout_s: float | None = setting(
        None, help="A request fails when its end takes longer than this."
    )
    max_output_tokens: int | None = setting(
        None,
        help="A sample gets at most this many tokens, asked for or not; by default as "
        "many as the context leaves.",
    )

    clamps_max_tokens: bool = setting(
        False,
        help="A request that asks for more tokens than the context or "
        "max_output_tokens leaves gets as many as there are; by default it is refused.",
    )

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            is_bound = value is not None and not isinstance(value, bool)
            if is_bound and not (0 < value < float("inf")):
                raise ValueError(f"{name} must be above 0, got {value}")
