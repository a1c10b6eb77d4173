"""The choices of an operator about a fleet."""

import math
from dataclasses import dataclass
from typing import Literal

from mell_jax.engine.fleet.faults import NO_FAULT, Fault
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.transfer import Mode
from mell_jax.settings.setting import setting

Parking = Literal["pool", "weights"]
"""A parked instance gives back its pool, or its weights as well."""
Way = Literal["device_put", "permute"]
"""Pages are copied array by array, or by a collective of both ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """Placement, migration and recovery are described.

    Attributes:
      mode: the mode of every move; None chooses as links and prefill allow.
      stall_s: a device that gives no result for so long is fenced, where others can
        go on; the server's setting of this name.
      fault: faults that tests plant.
      has_others: there are other hosts, to which pages may go.

    Raises:
      ValueError: a value is out of range, naming the setting and the rule.
    """

    policy: str = setting(
        "consolidate",
        is_flag=True,
        help=f"This policy places and moves requests: {', '.join(sorted(POLICIES))}.",
    )
    shadow_policies: tuple[str, ...] = setting(
        ("best_fit",),
        help="The page /fleet shows how many devices these policies would use for the "
        "same requests. They take at most 1% of a core; without any, none is taken.",
    )
    move_price_s: float = setting(
        0.6,
        help="Moving all the pages that a device can hold is worth so many seconds of "
        "a device. A lower price means fewer devices and more bytes moved.",
    )
    place_wait_ms: float = setting(
        100.0,
        help="A request that fits nowhere waits at most so long before another device "
        "is opened for it.",
    )
    tpot_slo_ms: float | None = setting(
        None,
        is_flag=True,
        help="An instance takes no more requests than let each have a token every so "
        "many milliseconds while they decode, as was measured at the start; by default "
        "it takes all that its memory holds.",
    )
    epoch_s: float = setting(
        1.0, help="So many seconds pass between two consolidations."
    )
    migration_gbps: float | None = setting(
        None,
        help="Consolidation uses at most so many Gb/s of a device's link; by default "
        "it has no bound.",
    )
    parking: Parking = setting(
        "pool",
        help="An idle instance gives back its pool, or its weights as well.",
    )
    replay_limit: int = setting(
        3,
        help="A request that has lost more devices than this fails; before that it "
        "starts again on another one.",
    )
    mode: Mode | None = None
    transport: Way = setting(
        "device_put",
        help="Pages of moved requests are copied array by array (device_put) or by a "
        "collective of both devices (permute).",
    )
    patience_epochs: int = setting(
        30, help="A move is called off when its pages take more epochs than this."
    )
    kv_events: str = setting(
        "",
        help="This ZeroMQ address, such as tcp://127.0.0.1:5557, tells subscribers "
        "which prefixes are cached, token ids included, as vLLM does (extra cluster).",
    )
    kv_events_replay: str = setting(
        "", help="This ZeroMQ address says again what a subscriber has missed."
    )
    kv_events_topic: str = setting("", help="Events of the cache have this topic.")
    stall_s: float = 60.0
    fault: Fault = NO_FAULT
    has_others: bool = False

    def policy_config(self) -> PolicyConfig:
        """Returns what policies are told.

        Raises:
          ValueError: a value is out of range.
        """
        gbps = self.migration_gbps
        return PolicyConfig(
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
        if unknown := [name for name in self.shadow_policies if name not in POLICIES]:
            raise ValueError(
                f"shadow_policies must be of {sorted(POLICIES)}, got {unknown}"
            )
        if self.parking not in ("pool", "weights"):
            raise ValueError(f"parking must be pool or weights, got {self.parking!r}")
        if self.transport not in ("device_put", "permute"):
            raise ValueError(
                f"transport must be device_put or permute, got {self.transport!r}"
            )
        for name in (
            *("move_price_s", "epoch_s", "migration_gbps", "stall_s"),
            "tpot_slo_ms",
        ):
            value = getattr(self, name)
            if not (value is None or 0 < value < math.inf):
                raise ValueError(f"{name} must be > 0, got {value}")
        for name in ("place_wait_ms", "replay_limit"):
            value = getattr(self, name)
            if not (0 <= value < math.inf):
                raise ValueError(f"{name} must be >= 0, got {value}")
        if not (self.patience_epochs >= 1):
            raise ValueError(
                f"patience_epochs must be >= 1, got {self.patience_epochs}"
            )
        self._check_kv_events()

    def _check_kv_events(self) -> None:
        for name in ("kv_events", "kv_events_replay"):
            value = getattr(self, name)
            if value and not value.startswith(("tcp://", "ipc://", "inproc://")):
                raise ValueError(
                    f"{name} must begin with tcp://, ipc:// or inproc://, got {value!r}"
                )
        if self.kv_events_replay and not self.kv_events:
            raise ValueError("kv_events_replay needs kv_events, too")
