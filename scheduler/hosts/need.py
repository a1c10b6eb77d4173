"""The needs of a fleet are read from the controller's books.

no group of a host serves           -> the host is idle, and may be given back
requests wait, and no group is idle -> another host would help
"""

from dataclasses import dataclass

from mell_jax.scheduler.hosts.coordinator import Coordinator


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """So much is used, idle and wanted.

    Attributes:
      hosts: names of those that serve.
      idle_hosts: names of those of them whose device groups are all parked or drained.
      groups: device groups of hosts that serve.
      idle_groups: those of them that are parked.
      waiting: requests without a place.
    """

    hosts: tuple[str, ...] = ()
    idle_hosts: tuple[str, ...] = ()
    groups: int = 0
    idle_groups: int = 0
    waiting: int = 0

    @property
    def is_short(self) -> bool:
        """Returns whether requests wait, and no device group is left for them."""
        return self.waiting > 0 and self.idle_groups == 0


def need_of(coordinator: Coordinator) -> Need:
    """Returns what a fleet needs now; nothing while it is being adopted."""
    if coordinator.is_adopting:
        return Need()
    machine, ledger = coordinator.machine, coordinator.machine.ledger
    serving = [
        host
        for host in coordinator.roll.hosts.values()
        if host.is_serving and not host.is_leaving
    ]
    idle = {
        device for host in serving for device in host.devices if ledger.is_idle(device)
    }
    return Need(
        hosts=tuple(host.name for host in serving),
        idle_hosts=tuple(
            host.name
            for host in serving
            if not ledger.instances.keys() & {*host.devices}
        ),
        groups=sum(len(host.devices) for host in serving),
        idle_groups=len(idle),
        waiting=machine.waiting,
    )
