"""Words for the log about who comes and goes in a fleet of hosts."""

from collections.abc import Iterable

from mell_jax.engine.fleet.news import tell_policy
from mell_jax.events import Event, tell
from mell_jax.scheduler.hosts.news import (
    Adopted,
    FrontGone,
    HostAdmitted,
    HostFenced,
    HostLeft,
    HostLost,
    News,
    PolicyChanged,
)
from mell_jax.scheduler.ids import Epoch


def tell_all(news: Iterable[News]) -> None:
    """Writes news down, as the controller has them."""
    for one in news:
        _tell(one)


def _tell(news: News) -> None:
    match news:
        case HostAdmitted(name=name, epoch=epoch, groups=groups):
            tell(
                Event.HOST_ADMITTED,
                text=f"host {name} is in the fleet under epoch {epoch}, with {groups} "
                "device groups",
                host=name,
                host_epoch=epoch,
                groups=groups,
            )
        case HostLost(name=name, epoch=epoch, reason=reason):
            tell(
                Event.HOST_LOST,
                text=f"host {name} of epoch {epoch} is lost: {reason}; its requests "
                "start again elsewhere",
                host=name,
                host_epoch=epoch,
                reason=reason,
            )
        case HostFenced(name=name, epoch=epoch, reason=reason):
            tell(
                Event.HOST_FENCED,
                text=f"host {name} of epoch {epoch} is fenced: {reason}; its requests "
                "start again elsewhere",
                host=name,
                host_epoch=epoch,
                reason=reason,
            )
        case HostLeft(name=name, epoch=epoch):
            tell(
                Event.HOST_LEFT,
                text=f"host {name} of epoch {epoch} has left",
                host=name,
                host_epoch=epoch,
            )
        case FrontGone(front=front):
            tell(
                Event.FRONT_END_GONE,
                text=f"front end {front} is gone, and its requests with it",
                front=front,
            )
        case Adopted(hosts=hosts, fronts=fronts, requests=requests):
            tell(
                Event.CONTROLLER_ADOPTED,
                text=f"the controller has adopted {hosts} hosts, {fronts} front ends "
                f"and {requests} requests",
                hosts=hosts,
                fronts=fronts,
                requests=requests,
            )
        case PolicyChanged(policy=policy, before=before):
            tell_policy(policy, before=before)


def tell_began(address: str) -> None:
    """Says that a controller listens."""
    tell(
        Event.CONTROLLER_BEGAN,
        text=f"the controller listens at {address}",
        address=address,
    )


def tell_joined(name: str, *, address: str) -> None:
    """Says that a host has connected."""
    tell(
        Event.HOST_JOINED,
        text=f"host {name} at {address} has joined",
        host=name,
        address=address,
    )


def tell_refused(name: str, *, reason: str) -> None:
    """Says that a host is not let in."""
    tell(
        Event.HOST_REFUSED,
        text=f"host {name} is not let in: {reason}",
        host=name,
        reason=reason,
    )


def tell_own_epoch(epoch: Epoch) -> None:
    """Says at a host that it is in the fleet."""
    tell(
        Event.HOST_ADMITTED,
        text=f"this host is in the fleet under epoch {epoch}",
        host_epoch=epoch,
    )


def tell_own_fence(reason: str) -> None:
    """Says at a host that it was given up."""
    tell(
        Event.HOST_FENCED,
        text=f"this host was fenced: {reason}; it joins again, empty",
        reason=reason,
    )
