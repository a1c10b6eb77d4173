"""An option is an instance that can be bought: so many devices of a kind, one model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mell_jax.planner.devices import Device
from mell_jax.planner.roofline import Assumptions, capacity_tokens, profile_of
from mell_jax.planner.shape import ModelShape
from mell_jax.scheduler.simulator.profile import Profile

WIDTHS = (1, 2, 4, 8)  # devices of an instance; more than one by tensor parallelism


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An instance on `width` devices of a kind, with what it can do and costs."""

    device: Device
    width: int
    profile: Profile
    is_measured: bool = False

    def __post_init__(self) -> None:
        if not (self.width >= 1):
            raise ValueError(f"width must be >= 1, got {self.width}")

    @property
    def name(self) -> str:
        """Returns the kind, with the devices of an instance if there are several."""
        return self.kind if self.width == 1 else f"{self.kind} x{self.width}"

    @property
    def kind(self) -> str:
        return self.device.kind

    @property
    def price_per_hour(self) -> float:
        """Returns what an instance costs."""
        return self.width * self.device.price_per_hour


def find_options(
    shape: ModelShape,
    *,
    devices: Sequence[Device],
    assumed: Assumptions,
    measured: Mapping[str, Profile],
    longest_tokens: int,
) -> list[Option]:
    """Returns the instances of a model that hold the longest request, by kind.

    Args:
      measured: profiles by kind; a kind that has one is taken as it was measured, with
        one device to an instance.
      longest_tokens: of the requests that have to be served.

    Raises:
      ValueError: there are none.
    """
    options = []
    for device in devices:
        if device.kind in measured:
            profile = measured[device.kind]
            options.append(
                Option(device=device, width=1, profile=profile, is_measured=True)
            )
            continue
        for width in WIDTHS:
            held = capacity_tokens(shape, device=device, devices=width, assumed=assumed)
            if shape.can_be_cut(width) and held >= longest_tokens:
                profile = profile_of(
                    shape, device=device, devices=width, assumed=assumed
                )
                options.append(Option(device=device, width=width, profile=profile))
    if not options:
        kinds = ", ".join(device.kind for device in devices)
        raise ValueError(
            f"{shape.name} takes {shape.weight_bytes / 1e9:.0f} GB and requests have "
            f"up to {longest_tokens:,} tokens of "
            f"{shape.kv_bytes_per_token / 1024:.0f} KiB: that fits no instance of at "
            f"most {WIDTHS[-1]} devices of {kinds}; add a larger kind to --devices"
        )
    return options
