"""One seed, one schedule: three hosts, two front ends, a controller, and their faults.

Processes are killed and come back, stand still, lose their links, and the controller
forgets everything. Every client gets its right tokens, once and in order; at rest
nothing is held anywhere.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from mell_jax.scheduler.ids import FRONT_BITS, FrontId, RequestId
from tests.scheduler.hosts.network import Network, Process
from tests.scheduler.hosts.programs import (
    ControllerProgram,
    Directory,
    FrontProgram,
    HostProgram,
    Parts,
    Program,
)
from tests.scheduler.migration.jobs import SIZE, Job, ViolationError

LIMIT = 900.0
FAULTY = 60.0  # no fault begins later
MAX_TOKENS = 33


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """So much goes wrong in a schedule."""

    kills: int  # of hosts
    controller_kills: int
    front_kills: int
    stops: int  # of any process
    cuts: int  # of any way between two
    cancels: float

    @classmethod
    def draw(cls, rng: random.Random) -> "Faults":
        return cls(
            kills=rng.choice([0, 0, 1, 2]),
            controller_kills=rng.choice([0, 0, 1, 2]),
            front_kills=rng.choice([0, 0, 0, 1]),
            stops=rng.choice([0, 0, 1, 2]),
            cuts=rng.choice([0, 0, 1, 2]),
            cancels=rng.choice([0, 0.15]),
        )


class Simulation:
    """A fleet of three hosts and its faults."""

    def __init__(self, seed: int, *, parts: Parts | None = None) -> None:
        self.rng = rng = random.Random(seed)
        self.parts = parts or Parts()
        self.faults = Faults.draw(rng)
        self.network = Network(rng)
        self.directory = Directory(self.network)
        self.counts: Counter[str] = Counter()
        self.jobs: dict[RequestId, Job] = {}
        self._pages = rng.randint(17, 26)
        self._policy = rng.choice(["consolidate", "mell", "load_balance"])
        self._last_front = 0
        self._hosts: list[HostProgram] = []
        self._fronts: list[FrontProgram] = []
        self._due = 0  # what is still to come
        self._controller = self._add_controller(hosts=3)
        for number in range(3):
            self._add_host(f"host {number}")
        for _ in range(2):
            self._add_front()
        self._plan()

    # -- what happens --------------------------------------------------------------

    def run(self) -> None:
        """Until all is at rest.

        Raises:
          ViolationError: something happened that must not.
        """
        while not self._is_at_rest():
            self.network.next()
            if self.network.now > LIMIT:
                raise ViolationError(f"no rest: {self._unrest()}")
        settled = self.network.now + 30.0
        while self.network.now < settled:  # what is late must not stir anything up
            self.network.next()
        self._check_end()

    def _plan(self) -> None:
        faults, rng = self.faults, self.rng
        kinds: list[tuple[int, Callable[[], None]]] = [
            (faults.kills, self._kill_host),
            (faults.controller_kills, self._kill_controller),
            (faults.front_kills, self._kill_front),
            (faults.stops, self._stop),
            (faults.cuts, self._bar),
        ]
        for count, act in kinds:
            for _ in range(count):
                self._later(5 + rng.random() * FAULTY, act)

    def _later(self, delay: float, act: Callable[[], None]) -> None:
        """Does something that rest has to wait for."""
        self._due += 1

        def do() -> None:
            self._due -= 1
            act()

        self.network.later(delay, do)

    def _kill_host(self) -> None:
        alive = [host for host in self._hosts if host.process.is_alive]
        if not alive:
            return
        self.counts["host killed"] += 1
        host = self.rng.choice(alive)
        self.network.kill(host.process)
        self._hosts.remove(host)
        self._later(3 + self.rng.random() * 15, lambda: self._add_host(host.name))

    def _kill_controller(self) -> None:
        if not self._controller.process.is_alive:
            return
        self.counts["controller killed"] += 1
        self.network.kill(self._controller.process)
        self._later(1 + self.rng.random() * 20, self._come_again)

    def _come_again(self) -> None:
        self._controller = self._add_controller(hosts=1)

    def _kill_front(self) -> None:
        if len(self._fronts) < 2:
            return
        self.counts["front killed"] += 1
        front = self.rng.choice(self._fronts)
        self._fronts.remove(front)
        self.network.kill(front.process)
        self._later(1 + self.rng.random() * 5, self._add_front)

    def _stop(self) -> None:
        process = self.rng.choice(self._processes())
        if process.is_stopped or not process.is_alive:
            return
        self.counts["stopped"] += 1
        process.is_stopped = True
        self._later(1 + self.rng.random() * 20, process.go_on)

    def _bar(self) -> None:
        one, other = self.rng.sample(self._processes(), 2)
        self.counts["cut"] += 1
        self.network.bar(one, other)
        self._later(self.rng.random() * 15, lambda: self.network.unbar(one, other))

    def _processes(self) -> list[Process]:
        programs: list[Program] = [self._controller, *self._hosts, *self._fronts]
        return [program.process for program in programs]

    # -- who is there --------------------------------------------------------------

    def _add_controller(self, *, hosts: int) -> ControllerProgram:
        program = ControllerProgram(
            self.directory,
            parts=self.parts,
            pages=self._pages,
            policy=self._policy,
            hosts=hosts,
        )
        self._beat(program)
        return program

    def _add_host(self, name: str) -> None:
        host = HostProgram(
            self.directory,
            name=name,
            parts=self.parts,
            pages=self._pages,
            jobs=self.jobs,
            rng=self.rng,
        )
        self._hosts.append(host)
        self._beat(host)
        self._step(host)

    def _add_front(self) -> None:
        self._last_front += 1
        front = FrontProgram(
            self.directory,
            front=FrontId(self._last_front),
            parts=self.parts,
            jobs=self.jobs,
        )
        self._fronts.append(front)
        self._beat(front)
        for number in range(self.rng.randint(2, 5)):
            self._add_job(front, number)

    def _add_job(self, front: FrontProgram, number: int) -> None:
        rng = self.rng
        prompt = rng.randint(1, 9)
        job = Job(
            request=RequestId((front.front << FRONT_BITS) + number),
            prompt=prompt,
            output=rng.randint(1, MAX_TOKENS - prompt),
            group=rng.randint(0, 1),
            shared=rng.choice([0, prompt // SIZE * SIZE]),
        )
        self.jobs[job.request] = job
        at = 4 + rng.random() * 50
        self._later(at, lambda: front.process.do(lambda: front.ask(job)))
        if rng.random() < self.faults.cancels:
            self._later(
                at + rng.random() * 20,
                lambda: front.process.do(lambda: front.cancel(job.request)),
            )

    def _beat(self, program: Program) -> None:
        if program.process.is_alive:
            if not program.process.is_stopped:
                program.beat()
            self.network.later(
                0.9 + 0.2 * self.rng.random(), lambda: self._beat(program)
            )

    def _step(self, host: HostProgram) -> None:
        if host.process.is_alive:
            if not host.process.is_stopped:
                host.step()
                for instance in host.instances.values():
                    instance.check()
            self.network.later(1.0, lambda: self._step(host))

    # -- what must hold ------------------------------------------------------------

    def _open(self) -> list[RequestId]:
        """Returns the requests that are not over yet."""
        return [
            request
            for front in self._fronts
            for request in front.client.got
            if request not in front.client.complete
            and request not in front.client.cancelled
        ]

    def _is_at_rest(self) -> bool:
        return not self._due and not self._open()

    def _unrest(self) -> str:
        said = [f"{self._due} due", f"open: {self._open()}"]
        said += [f"{host.name}: {host.instances}" for host in self._hosts]
        return "; ".join(said)

    def _check_end(self) -> None:
        coordinator = self._controller.coordinator
        if coordinator.is_adopting:
            raise ViolationError("the controller still waits for reports")
        if coordinator.requests or coordinator.controller.owners:
            raise ViolationError(f"left: {coordinator.controller.owners}")
        ledger = coordinator.machine.ledger
        if ledger.requests or ledger.moves or coordinator.machine.waiting:
            raise ViolationError("the placement machine is not at rest")
        for front in self._fronts:
            self.counts["complete"] += len(front.client.complete)
            if front.relay.streams:
                raise ViolationError(f"left at a front end: {front.relay.streams}")
        for host in self._hosts:
            self._check_host(host)

    def _check_host(self, host: HostProgram) -> None:
        known = {
            entry.epoch for entry in self._controller.coordinator.roll.hosts.values()
        }
        if host.desk.epoch not in known:
            raise ViolationError(f"{host.name} is not in the fleet any more")
        if host.desk.held_pages:
            raise ViolationError(f"{host.name} has books of {host.desk.held_pages}")
        for device, instance in host.instances.items():
            if instance.held:
                raise ViolationError(f"{device} holds {instance.held}")
