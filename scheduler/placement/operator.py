"""An operator's wish is held against the books before placement hears of it.

The machine does what fits and lets the rest be; an operator is told why.
"""

from collections.abc import Callable

from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.placement import events
from mell_jax.scheduler.placement.accounts import RequestAccount
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.placement.machine import Machine


class UnknownTargetError(LookupError):
    """A command names a request, a device or a model that is not there."""


class NotPossibleError(RuntimeError):
    """A command cannot be carried out as things are; the message says why."""


def relocation(
    ledger: Ledger,
    request: RequestAccount,
    *,
    device: DeviceGroupId,
    state_of: Callable[[DeviceGroupId], str],
) -> events.Relocate | None:
    """Returns what has a request go to a device; None if it is there.

    Args:
      state_of: says in a word what a device does that serves nothing.

    Raises:
      NotPossibleError: it cannot go there now.
    """
    if request.device is None:
        raise NotPossibleError(f"request {request.id} waits for its first place")
    if request.move is not None:
        target = ledger.moves[request.move].target
        raise NotPossibleError(
            f"request {request.id} is on its way to device {target}; try again when "
            "it is there"
        )
    if request.device == device:
        return None
    instance = ledger.instances.get(device)
    if instance is None:
        raise NotPossibleError(
            f"device {device} is {state_of(device)}; requests move to devices that "
            "serve"
        )
    if instance.is_closing:
        raise NotPossibleError(f"device {device} is being given back")
    if instance.model != request.model:
        raise NotPossibleError(
            f"device {device} serves {instance.model}, and request {request.id} is for "
            f"{request.model}"
        )
    pages = ledger.wanted_pages(request)
    if not ledger.fits(instance, pages):
        raise NotPossibleError(
            f"request {request.id} has {pages} pages and device {device} has room for "
            f"{max(ledger.room(instance), 0)}"
        )
    return events.Relocate(request=request.id, device=device)


def check_moves(request: RequestAccount, *, device: DeviceGroupId) -> None:
    """Finds out whether placement has a request go to a device, as it was told to.

    Raises:
      NotPossibleError: it has not.
    """
    if request.move is None:
        raise NotPossibleError(
            f"the books do not let request {request.id} go to device {device} now"
        )


def removal(
    machine: Machine, *, device: DeviceGroupId, instead: str
) -> events.DeviceRemoved | None:
    """Returns what has a device given back; None if it is, or is about to be.

    Args:
      instead: what to do where no other device is left to serve.

    Raises:
      NotPossibleError: no other device is left.
    """
    ledger = machine.ledger
    if machine.is_draining(device):
        return None
    if not (ledger.is_idle(device) or device in ledger.instances):
        return None
    others = (
        ledger.idle_devices
        - ledger.is_idle(device)
        + sum(
            not machine.is_draining(other)
            for other in ledger.instances
            if other != device
        )
    )
    if others == 0:
        raise NotPossibleError(
            f"device {device} is the last one that serves; {instead}"
        )
    return events.DeviceRemoved(device=device)
