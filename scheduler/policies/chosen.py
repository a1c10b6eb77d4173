"""An operator chooses a policy by its name and two of its knobs; they are checked."""

from dataclasses import replace

from mell_jax.scheduler.placement.policy import Policy, PolicyConfig
from mell_jax.scheduler.policies import POLICIES


class ChoiceError(ValueError):
    """A policy cannot be chosen so: `field` breaks `rule`."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field} {rule}")
        self.field = field
        self.rule = rule


def chosen_policy(
    name: str, *, base: PolicyConfig, look_s: float | None, headroom: float | None
) -> Policy:
    """Returns a new policy.

    Args:
      name: of the policy.
      base: all other knobs.
      look_s: growth look-ahead in seconds; None leaves the policy's own.
      headroom: fraction of an instance that arrivals leave free; None leaves none.

    Raises:
      ChoiceError: there is no such policy, or a value is out of range.
    """
    if name not in POLICIES:
        known = ", ".join(sorted(POLICIES))
        raise ChoiceError("policy", f"must be one of {known}, got {name!r:.100}")
    free = 0.0 if headroom is None else headroom
    try:
        config = replace(base, look_s=look_s, headroom=free)
    except ValueError as error:  # "look_s must be ..."
        field, _, rule = str(error).partition(" ")
        raise ChoiceError(field, rule) from error
    return POLICIES[name](config)
