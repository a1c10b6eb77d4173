"""Reports are kept up to date while a controller waits for others.

What a host or a front end says after its report changes it as if it had been made then.
All else that is said is of the past, or is said again to whoever is adopted.
"""

from dataclasses import replace

from mell_jax.scheduler.hosts.messages import (
    Ask,
    Broken,
    Enter,
    FromFront,
    FromHost,
    GroupFailed,
    Join,
    Leave,
    Over,
    Reached,
    StreamReport,
    Told,
    Unreachable,
)
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.migration.messages import Released


def after_host(join: Join, message: FromHost) -> Join:
    """Returns what a host would report now."""
    match message:
        case Leave():
            return replace(join, is_leaving=True)
        case GroupFailed(device=device):
            return _without(join, device)
        case Told(message=Released(copy_id=copy_id)):
            copies = tuple(copy for copy in join.copies if copy.copy_id != copy_id)
            return replace(join, copies=copies)
        case _:
            return join


def _without(join: Join, device: DeviceGroupId) -> Join:
    """Returns the report of a host of which a device group has failed."""
    left = tuple(group for group in join.groups if group.device != device)
    aside = {join.groups[number].device for number in join.aside}
    return replace(
        join,
        num_groups=len(left),
        groups=left,
        aside=tuple(n for n, group in enumerate(left) if group.device in aside),
        copies=tuple(copy for copy in join.copies if copy.device != device),
    )


def after_front(enter: Enter, message: FromFront) -> Enter:
    """Returns what a front end would report now."""
    streams, hosts = enter.streams, enter.hosts
    match message:
        case Ask():
            streams = (*streams, _waiting(message))
        case Over(request=request):
            streams = tuple(s for s in streams if s.ask.request != request)
        case Broken(request=request, copy_id=copy_id):
            streams = tuple(
                _waiting(s.ask)
                if (s.ask.request, s.copy_id) == (request, copy_id)
                else s
                for s in streams
            )
        case Reached(epoch=epoch):
            hosts = (*hosts, epoch)
        case Unreachable(epoch=epoch):
            hosts = tuple(host for host in hosts if host != epoch)
            streams = tuple(_waiting(s.ask) if s.epoch == epoch else s for s in streams)
        case _:
            pass
    return replace(enter, streams=streams, hosts=hosts)


def _waiting(ask: Ask) -> StreamReport:
    return StreamReport(ask=ask, copy_id=None, epoch=None, device=None)
