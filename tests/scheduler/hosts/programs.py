"""What the programs of a simulated fleet have in common, and how they meet.

FrontProgram (Relay)              clients' jobs; finds controller and hosts
HostProgram (Desk)                device groups; finds the controller
ControllerProgram (Coordinator)
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.coordinator import Coordinator
from mell_jax.scheduler.hosts.desk import Desk
from mell_jax.scheduler.hosts.relay import Relay
from mell_jax.scheduler.ids import DeviceGroupId, Epoch, FrontId, ModelId
from mell_jax.scheduler.migration.endpoint import Endpoint
from tests.scheduler.hosts.network import Link, Network, Process
from tests.scheduler.migration.jobs import SIZE

PATIENCE = 5  # beats
GROUPS = 2  # of a host


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The pieces under test; a broken one must be found out."""

    coordinator: type[Coordinator] = Coordinator
    desk: type[Desk] = Desk
    relay: type[Relay] = Relay
    endpoint: type[Endpoint] = Endpoint
    piece_pages: int | None = None  # of moves


@dataclass(frozen=True, slots=True)
class Hello:
    """The first words over a link say who is there."""

    name: str
    epoch: Epoch | None = None
    front: FrontId | None = None


@dataclass(frozen=True, slots=True)
class Lineage:
    """Tokens that were computed one after the other, wherever their copy has moved.

    Another start of the same request might draw others, so that a stream may go on
    with a lineage only where this one began.
    """

    number: int
    begin: int  # tokens of the answer that it was told


@dataclass(frozen=True, slots=True)
class Carried:
    """A message between devices of two hosts, with its payload."""

    to: DeviceGroupId
    message: Any
    payload: Any
    lineage: Lineage | None  # of what a chunk brings


class Directory:
    """Who can be found under which name, and which lineages there are."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.processes: dict[str, Process] = {}
        self.lineages: list[Lineage] = []
        self.counts: Counter[str] = Counter()

    def next_generation(self) -> int:
        """Returns a number that no controller had before."""
        self.counts["controllers"] += 1
        return self.counts["controllers"]

    def new_lineage(self, begin: int) -> Lineage:
        """A request starts with so many tokens of its answer."""
        lineage = Lineage(len(self.lineages), begin)
        self.lineages.append(lineage)
        return lineage

    def find(self, name: str) -> Process | None:
        """Returns the process of that name, if one is alive."""
        process = self.processes.get(name)
        return process if process is not None and process.is_alive else None


class Program:
    """What all programs do: find the controller, and keep count of beats."""

    def __init__(self, directory: Directory, name: str) -> None:
        self.directory = directory
        self.name = name
        self.process = Process(name, self)
        directory.processes[name] = self.process
        self.controller: Link | None = None

    def find_controller(self) -> bool:
        """Returns whether there is a new link to the controller."""
        other = self.directory.find("controller")
        if self.controller is not None or other is None:
            return False
        self.controller = self.directory.network.connect(self.process, other)
        return self.controller is not None

    def beat(self) -> None:
        """Sends a beat over every link, and counts those that did not come."""
        for link in list(self.process.links):
            link.send(self.process, words.Beat())
        for link in list(self.process.links):
            link.beat(self.process, patience=PATIENCE)

    def send_controller(self, message: Any) -> None:
        if self.controller is not None:
            self.controller.send(self.process, message)

    def hear(self, link: Link, message: Any) -> None:
        raise NotImplementedError

    def lost(self, link: Link) -> None:
        raise NotImplementedError


def pages_of(model: ModelId, tokens: int) -> int:
    """Returns the pages of so many tokens."""
    return -(-tokens // SIZE)
