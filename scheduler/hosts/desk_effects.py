"""A desk tells its driver to do these things, in order."""

from dataclasses import dataclass

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.ids import CopyId, DeviceGroupId, FrontId, ModelId
from mell_jax.scheduler.migration import events, messages


@dataclass(frozen=True, slots=True, kw_only=True)
class ToController:
    """Send this to the controller."""

    message: words.FromHost


@dataclass(frozen=True, slots=True, kw_only=True)
class ToFront:
    """Send this to a front end."""

    front: FrontId
    message: words.HostToFront


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """Tell the endpoint of a device this; an opening comes with its request."""

    device: DeviceGroupId
    message: messages.ToEndpoint | events.Keep


@dataclass(frozen=True, slots=True, kw_only=True)
class LetGrow:
    """A row may have so many pages."""

    device: DeviceGroupId
    copy_id: CopyId
    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Make a device group ready for a model; None: park it."""

    device: DeviceGroupId
    model: ModelId | None
    horizon: CopyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """These are the device groups of this host, empty; all earlier ones are dropped."""

    devices: tuple[DeviceGroupId, ...]


Effect = ToController | ToFront | Deliver | LetGrow | Change | Begin
