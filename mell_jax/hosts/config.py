"""The choices of an operator about a fleet of several hosts."""

import math
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from mell_jax.hosts.address import split_address
from mell_jax.hosts.pages.choice import PagesBy
from mell_jax.settings.setting import setting

MIN_SECRET_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsConfig:
    """A process takes part in a fleet of several hosts like this; by default in none.

    Raises:
      ValueError: a value is out of range, or some contradict each other.
    """

    hosts: str = setting(
        "",
        is_flag=True,
        help="This file names hosts, one in a line (NAME, then local or an ssh target, "
        "then flags); they are started and make one fleet, which is served here.",
    )
    join: str = setting(
        "",
        is_flag=True,
        help="This process is one host of the fleet whose controller is at this "
        "address, and serves no client.",
    )
    ray: str = setting(
        "",
        is_flag=True,
        help="Hosts are started on nodes of this Ray cluster: its address, auto for "
        "the one that this machine is in, or local for one that begins and ends here.",
    )
    ray_hosts: int = setting(
        1,
        is_flag=True,
        help="So many hosts are started at first, each on a node of its own; fewer "
        "stay when there is little to do, and load brings as many again.",
    )
    ray_node: str = setting(
        "CPU=1",
        help="A host takes this of its node, as in CPU=8,GPU=8; Ray counts it.",
    )
    ray_idle_s: float = setting(
        300.0,
        help="A host whose devices are all parked for so long ends, so that Ray may "
        "give its node back; one always stays.",
    )
    fleet_address: str = setting(
        "",
        help="The controller (with hosts), or this host (with join), listens there for "
        "the fleet's own processes; port 0 takes any free one. By default a port of "
        "127.0.0.1, or of the interface by which a host reaches its controller.",
    )
    fleet_secret_file: str = setting(
        "",
        help="All processes of a fleet have the secret in this file, 16 bytes or more, "
        "which is its owner's alone. Without it they must all be on this machine.",
    )
    fleet_tls_ca: str = setting(
        "",
        help="Processes of the fleet show each other a certificate (tls_cert) that an "
        "authority in this file (PEM) has signed; an empty text leaves TLS off.",
    )
    host_name: str = setting(
        "", help="This host has this name in its fleet; by default the machine's."
    )
    pages_by: PagesBy = setting(
        "sockets",
        help="Pages go to other hosts by sockets, by jax's own transfer, which has "
        "neither a secret nor TLS, or by whichever is faster (auto).",
    )
    beat_s: float = setting(
        0.5, help="The fleet's processes say to each other so often that they live."
    )
    patience_beats: int = setting(
        10,
        help="A process that is silent for so many beats is given up; its requests go "
        "on elsewhere.",
    )

    def __post_init__(self) -> None:
        if len([one for one in (self.hosts, self.join, self.ray) if one]) > 1:
            raise ValueError("hosts, join and ray exclude each other: give one of them")
        if self.join:
            _check_address("join", self.join, can_be_any=False)
        if self.fleet_address:
            _check_address("fleet_address", self.fleet_address, can_be_any=True)
        if "://" in self.ray:
            raise ValueError(
                f"ray must be HOST:PORT, auto or local, got {self.ray!r}: mell-serve "
                "runs on a node of the cluster"
            )
        if not (1 <= self.ray_hosts <= 10_000):
            raise ValueError(f"ray_hosts must be from 1 to 10000, got {self.ray_hosts}")
        if not (self.ray_idle_s >= 0.0):
            raise ValueError(f"ray_idle_s must be 0 or more, got {self.ray_idle_s}")
        if self.pages_by != "sockets" and self.fleet_tls_ca:
            raise ValueError(
                f"pages_by {self.pages_by} contradicts fleet_tls_ca: jax's transfers "
                "have no TLS; leave pages_by at sockets"
            )
        self.node_resources()
        if not (0.01 <= self.beat_s <= 60.0):
            raise ValueError(f"beat_s must be from 0.01 to 60, got {self.beat_s}")
        if not (1 <= self.patience_beats <= 10_000):
            raise ValueError(
                f"patience_beats must be from 1 to 10000, got {self.patience_beats}"
            )

    def node_resources(self) -> dict[str, float]:
        """Returns what a host takes of its node in a Ray cluster, by Ray's names.

        Raises:
          ValueError: `ray_node` says it in no way that can be read.
        """
        found: dict[str, float] = {}
        for part in self.ray_node.split(","):
            name, _, text = part.partition("=")
            amount = _number(text)
            if not name.strip() or not (0.0 < amount < math.inf):
                raise ValueError(
                    f"ray_node must be as in CPU=8,GPU=8, got {self.ray_node!r}: write "
                    "names and numbers above zero"
                )
            found[name.strip()] = amount
        return found

    @property
    def name(self) -> str:
        """Returns the name of this host."""
        return self.host_name or f"{socket.gethostname()}-{os.getpid()}"

    @property
    def is_on_this_machine(self) -> bool:
        """Returns whether no other machine can take part."""
        return all(map(_is_loopback, filter(None, [self.fleet_address, self.join])))

    def secret(self) -> bytes:
        """Returns the fleet's secret; nothing where it has none, and needs none.

        Raises:
          ValueError: it is missing, or too short, or others can read the file.
          OSError: the file cannot be read.
        """
        if not self.fleet_secret_file:
            if not (self.is_on_this_machine or self.ray):  # actors are given one
                raise ValueError(
                    "a fleet over several machines needs fleet_secret_file: write 32 "
                    "random bytes to a file that is yours alone, and copy it to each"
                )
            return b""
        path = Path(self.fleet_secret_file)
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ValueError(
                f"fleet_secret_file {path} can be read by others: chmod 600 it"
            )
        secret = path.read_bytes()
        if not (len(secret) >= MIN_SECRET_BYTES):
            raise ValueError(
                f"fleet_secret_file {path} has {len(secret)} bytes, of which it needs "
                f"{MIN_SECRET_BYTES}"
            )
        return secret


def _check_address(field: str, address: str, *, can_be_any: bool) -> None:
    """Finds out whether something is an address.

    Args:
      can_be_any: port 0 is one, and takes any free port.

    Raises:
      ValueError: it is none; the text begins with the field.
    """
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error
    if not host:
        raise ValueError(f"{field} names no machine, got {address!r}: write HOST:PORT")
    if not (port or can_be_any):
        raise ValueError(
            f"{field} must name the port of a controller, got {address!r}: it is in "
            "what the head prints, or its fleet_address"
        )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    return host in ("127.0.0.1", "::1", "localhost")
