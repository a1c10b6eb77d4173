"""What an operator chooses for a fleet."""

import math
from dataclasses import dataclass
from typing import Literal

from mell_jax.engine.fleet.faults import NO_FAULT, Fault
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.transfer import Mode

Parking = Literal["pool", "weights"]
"""What a parked instance gives back: its pool, or its weights as well."""
Way = Literal["device_put", "permute"]
"""How pages are copied: array by array, or by a collective of both ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """Placement, migration and recovery.

    Raises:
      ValueError: a value is out of range, naming the flag and the rule.
    """

    policy: str = "consolidate"
    look_s: float | None = None  # growth look-ahead; None: the policy's own
    epoch_s: float = 1.0  # between consolidations
    migration_gbps: float | None = None  # of a device, that consolidation may use
    parking: Parking = "pool"
    replay_limit: int = 3  # devices that a request may lose before it fails
    mode: Mode | None = None  # of every move; None: as links and prefill allow
    transport: Way = "device_put"
    patience_epochs: int = 30  # for pages on their way; then their move is called off
    fault: Fault = NO_FAULT  # for tests

    def policy_config(
        self, *, look_s: float | None = None, headroom: float | None = None
    ) -> PolicyConfig:
        """What policies are told; None leaves what was configured, or the default.

        Raises:
          ValueError: a value is out of range.
        """
        gbps = self.migration_gbps
        return PolicyConfig(
            headroom=0.0 if headroom is None else headroom,
            look_s=self.look_s if look_s is None else look_s,
            epoch_s=self.epoch_s,
            link_bytes_per_s=gbps * 1e9 / 8 if gbps is not None else math.inf,
        )

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(
                f"policy must be one of {sorted(POLICIES)}, got {self.policy!r}"
            )
        if not (self.look_s is None or self.look_s >= 0):
            raise ValueError(f"look_s must be >= 0, got {self.look_s}")
        if not (self.epoch_s > 0):
            raise ValueError(f"epoch_s must be > 0, got {self.epoch_s}")
        if not (self.migration_gbps is None or self.migration_gbps > 0):
            raise ValueError(f"migration_gbps must be > 0, got {self.migration_gbps}")
        if self.parking not in ("pool", "weights"):
            raise ValueError(f"parking must be pool or weights, got {self.parking!r}")
        if not (self.replay_limit >= 0):
            raise ValueError(f"replay_limit must be >= 0, got {self.replay_limit}")
        if self.transport not in ("device_put", "permute"):
            raise ValueError(
                f"transport must be device_put or permute, got {self.transport!r}"
            )
        if not (self.patience_epochs >= 1):
            raise ValueError(
                f"patience_epochs must be >= 1, got {self.patience_epochs}"
            )
