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
    move_price_s: float = 0.6  # device seconds that moving a full instance is worth
    place_wait_ms: float = 100.0  # that an arrival may wait before a device is opened
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
        """What policies are told; None leaves the policy's own, or the default.

        Raises:
          ValueError: a value is out of range.
        """
        gbps = self.migration_gbps
        return PolicyConfig(
            headroom=0.0 if headroom is None else headroom,
            look_s=look_s,
            move_price_s=self.move_price_s,
            place_wait_s=1e-3 * self.place_wait_ms,
            epoch_s=self.epoch_s,
            link_bytes_per_s=gbps * 1e9 / 8 if gbps is not None else math.inf,
        )

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(
                f"policy must be one of {sorted(POLICIES)}, got {self.policy!r}"
            )
        if not (0 < self.move_price_s < math.inf):
            raise ValueError(f"move_price_s must be > 0, got {self.move_price_s}")
        if not (0 <= self.place_wait_ms < math.inf):
            raise ValueError(f"place_wait_ms must be >= 0, got {self.place_wait_ms}")
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
