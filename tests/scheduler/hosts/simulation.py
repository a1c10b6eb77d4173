"""One seed, one schedule: three hosts, two front ends, a controller, and their faults.

Processes are killed and come back, stand still, lose their links or become slow, and
the controller forgets everything; some of that at the moment of one message or of
another fault. Every client gets its right tokens, once and in order, each computed
after those that it has; at rest nothing is held anywhere.
"""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from mell_jax.scheduler.hosts.wishes import AsideWish, MoveWish, PolicyWish, Wish
from mell_jax.scheduler.ids import FRONT_BITS, DeviceGroupId, FrontId, RequestId
from mell_jax.scheduler.policies import POLICIES
from tests.scheduler.hosts.controller_program import ControllerProgram
from tests.scheduler.hosts.faults import AIMED_AT, Faults
from tests.scheduler.hosts.front_program import FrontProgram
from tests.scheduler.hosts.host_program import HostProgram
from tests.scheduler.hosts.network import Network, Process
from tests.scheduler.hosts.programs import Directory, Parts, Program
from tests.scheduler.migration.jobs import SIZE, Job, ViolationError

LIMIT = 900.0
ARRIVING = 25.0  # no request comes later
FAULTY = 32.0  # no fault begins later
WATCHED = 20  # times
SETTLING = 12.0  # what is late must not stir anything up
STEP = 0.4
MAX_TOKENS = 33


class Simulation:
    """A fleet of three hosts and its faults, which are drawn if they are not given."""

    def __init__(
        self, seed: int, *, parts: Parts | None = None, faults: Faults | None = None
    ) -> None:
        self.rng = rng = random.Random(seed)
        self.parts = parts or Parts()
        self.faults = faults or Faults.draw(rng)
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
        rested = self.network.now
        while self.network.now < rested + SETTLING:
            self.network.next()
            if not self._is_at_rest():
                rested = self.network.now
            if self.network.now > LIMIT:
                raise ViolationError(f"no rest: {self._unrest()}")
        self._check_end()
        self.counts += self.network.counts

    def _plan(self) -> None:
        faults, rng = self.faults, self.rng
        kinds: list[tuple[int, Callable[[], None]]] = [
            (faults.kills, self._kill_host),
            (faults.controller_kills, self._kill_controller),
            (faults.front_kills, self._kill_front),
            (faults.failures, self._fail_group),
            (faults.stops, self._stop),
            (faults.cuts, self._bar),
            (faults.slow_ways, self._slow),
            (faults.lost_ways, self._lose_way),
            (faults.breaks, self._break_streams),
        ]
        for count, act in kinds:
            for _ in range(count):
                self._later(self._some_time(), act)
        for _ in range(faults.pairs):
            at = self._some_time()
            for _, act in rng.sample(kinds, 2):
                self._later(at, act)
        for _ in range(faults.aimed):
            self._aim()
        for _ in range(faults.last_words):
            self.network.aim("Begin", nth=rng.randint(1, 6), fault=self._draw_out)
        for _ in range(faults.torn_moves):
            self.network.aim(
                "Chunk",
                nth=rng.randint(1, 6),
                fault=lambda _, source, to: self._bar_way(source, to),
            )
        if faults.wishes:
            self._plan_operator(faults.wishes)
        if faults.is_rolling:
            self._later(self._some_time() / 2, lambda: self._roll(0))

    def _plan_operator(self, wishes: int) -> None:
        for _ in range(wishes):
            self._later(self._some_time(), self._wish)
        for at in range(WATCHED):
            self._later(FAULTY + 2.0 * at, self._keep_in_use)

    def _some_time(self) -> float:
        return 4 + self.rng.random() * (FAULTY - 4)

    def _later(self, delay: float, act: Callable[[], None]) -> None:
        """Does something that rest has to wait for."""
        self._due += 1

        def do() -> None:
            self._due -= 1
            act()

        self.network.later(delay, do)

    # -- faults --------------------------------------------------------------------

    def _aim(self) -> None:
        """Has something happen at the moment of one message, to who is concerned."""
        rng = self.rng
        name, nth, what = rng.choice(AIMED_AT), rng.randint(1, 12), rng.random()
        delay = rng.choice([0.0, 0.0, 0.05 * rng.random(), 0.3 * rng.random()])

        def fault(message: Any, sender: Process, to: Process) -> None:
            concerned = [sender, to, *self._sources(message)]
            one = concerned[int(what * 1000) // 5 % len(concerned)]
            acts: list[Callable[[], None]] = [
                lambda: self._kill(one),
                lambda: self._stop_process(one),
                lambda: self._bar_way(sender, to),
                lambda: self._bar_way(one, self._controller.process),
                self._kill_controller,
            ]
            act = acts[int(what * 1000) % len(acts)]
            self.counts["aimed"] += 1
            self._later(delay, act)

        self.network.aim(name, nth=nth, fault=fault)

    def _sources(self, message: Any) -> list[Process]:
        """Returns the host whose tokens a stream takes that a message is about."""
        request = getattr(message, "request", None)
        for front in self._fronts:
            stream = front.relay.streams.get(request)
            if stream is not None and stream.place is not None:
                epoch = stream.place.epoch
                return [h.process for h in self._hosts if h.desk.epoch == epoch]
        return []

    def _draw_out(self, _: Any, controller: Process, source: Process) -> None:
        """Has one end killed as a move is committed, on a slow way to front ends."""
        one = self.rng.choice([controller, source])
        for front in self._fronts:
            self._slow_way(one, front.process, lag=1 + self.rng.random())
        self.network.aim(
            "Commit",
            nth=self.network.counts["Commit"] + 1,
            fault=lambda *_: self._later(0.0, lambda: self._kill(one)),
        )

    def _kill(self, process: Process) -> None:
        program = process.program
        if not process.is_alive:
            return
        if isinstance(program, HostProgram):
            self._end_host(program)
        elif isinstance(program, FrontProgram):
            self._end_front(program)
        else:
            self._kill_controller()

    def _kill_host(self) -> None:
        if self._hosts:
            self._end_host(self.rng.choice(self._hosts))

    def _end_host(self, host: HostProgram) -> None:
        self.counts["host killed"] += 1
        self._hosts.remove(host)
        self.network.kill(host.process)
        self._later(1 + self.rng.random() * 12, lambda: self._add_host(host.name))

    def _roll(self, number: int) -> None:
        """Restarts the hosts in turn, each when the one before is back."""
        if number == 3:
            self.counts["rolled"] += 1
            return
        self._leave(f"host {number}", 30.0)
        self._later(8 + self.rng.random() * 8, lambda: self._roll(number + 1))

    def _leave(self, name: str, patience: float) -> None:
        """Ends a host as soon as its requests have moved away, or patience is over."""
        host = next((host for host in self._hosts if host.name == name), None)
        if host is None:
            return  # it was killed
        host.leave()
        if host.desk.is_empty or patience < 0:
            self.counts["left" if host.desk.is_empty else "left in vain"] += 1
            self._end_host(host)
        else:
            self._later(1.0, lambda: self._leave(name, patience - 1))

    def _kill_controller(self) -> None:
        if not self._controller.process.is_alive:
            return
        self.counts["controller killed"] += 1
        self.network.kill(self._controller.process)
        self._later(1 + self.rng.random() * 15, self._come_again)

    def _come_again(self) -> None:
        self._controller = self._add_controller(hosts=1)

    def _kill_front(self) -> None:
        self._end_front(self.rng.choice(self._fronts))

    def _end_front(self, front: FrontProgram) -> None:
        if len(self._fronts) < 2:
            return
        self.counts["front killed"] += 1
        self._fronts.remove(front)
        self.network.kill(front.process)
        self._later(1 + self.rng.random() * 5, self._add_front)

    def _fail_group(self) -> None:
        if self._hosts:
            host = self.rng.choice(self._hosts)
            self.counts["group failed"] += len(host.instances) > 0
            host.process.do(host.fail)

    def _stop(self) -> None:
        self._stop_process(self.rng.choice(self._processes()))

    def _stop_process(self, process: Process, *, lasts: float | None = None) -> None:
        if process.is_stopped or not process.is_alive:
            return
        self.counts["stopped"] += 1
        process.is_stopped = True
        if lasts is None:
            lasts = 0.5 + self.rng.random() * 15
        self._later(lasts, process.go_on)

    def _bar(self) -> None:
        self._bar_way(*self.rng.sample(self._processes(), 2))

    def _bar_way(self, one: Process, other: Process) -> None:
        if one is other:
            return
        self.counts["cut"] += 1
        self.network.bar(one, other, is_silent=self.rng.random() < 0.5)
        self._later(self.rng.random() * 12, lambda: self.network.unbar(one, other))

    def _lose_way(self) -> None:
        """Lets a host stand still whose front end gives it up while both are alone.

        It goes on with copies that its front end has begun again elsewhere, and may be
        the first to report them to the next controller.
        """
        if not self._hosts:
            return
        front, host = self.rng.choice(self._fronts), self.rng.choice(self._hosts)
        self._kill_controller()
        self._stop_process(host.process, lasts=6 + 3 * self.rng.random())
        self.counts["cut"] += 1
        self.network.bar(front.process, host.process, is_silent=True)
        self._later(20.0, lambda: self.network.unbar(front.process, host.process))

    def _break_streams(self) -> None:
        self.counts["broken"] += 1
        for front in self._fronts:
            front.process.do(front.break_streams)

    def _wish(self) -> None:
        """An operator wants something."""
        rng, coordinator = self.rng, self._controller.coordinator
        hosts = list(coordinator.roll.hosts.values())
        if not hosts:
            return
        host = rng.choice(hosts)
        wishes: list[Wish] = [
            MoveWish(
                ticket=0,
                request=rng.choice([*coordinator.requests, RequestId(1)]),
                device=rng.choice(host.devices or (DeviceGroupId(1),)),
            ),
            AsideWish(
                ticket=0,
                device=rng.choice(host.devices or (DeviceGroupId(1),)),
                is_aside=rng.random() < 0.7,
            ),
            PolicyWish(
                ticket=0,
                policy=rng.choice(sorted(POLICIES)),
                look_s=rng.choice([None, 1.0, -1.0]),
                headroom=None,
            ),
        ]
        front, wish = rng.choice(self._fronts), rng.choice(wishes)
        front.process.do(lambda: front.wish(wish))

    def _keep_in_use(self) -> None:
        """Has groups used again if faults have left no other."""
        coordinator, rng = self._controller.coordinator, self.rng
        aside = [d for host in coordinator.roll.hosts.values() for d in host.aside]
        ledger = coordinator.machine.ledger
        if aside and not ledger.idle_devices and not ledger.instances:
            front, device = rng.choice(self._fronts), rng.choice(aside)
            wish = AsideWish(ticket=0, device=device, is_aside=False)
            front.process.do(lambda: front.wish(wish))

    def _slow(self) -> None:
        one, other = self.rng.sample(self._processes(), 2)
        self._slow_way(one, other, lag=self.rng.choice([0.5, 2.0, 4.5, 8.0]))

    def _slow_way(self, one: Process, other: Process, *, lag: float) -> None:
        self.counts["slow"] += 1
        self.network.slow(one, other, lag=lag)
        lasts = 2 + self.rng.random() * 15
        self._later(lasts, lambda: self.network.slow(one, other, lag=0.0))
        self._later(lasts + lag, lambda: None)  # what is on its way is still slow

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
        at = 4 + rng.random() * (ARRIVING - 4)
        self._later(at, lambda: front.process.do(lambda: front.ask(job)))
        if rng.random() < self.faults.cancels:
            self._later(
                at + rng.random() * 10,
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
            self.network.later(STEP, lambda: self._step(host))

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
        return not self._due and not any(
            len(front.client.got)
            > len(front.client.complete) + len(front.client.cancelled)
            for front in self._fronts
        )

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
        ledger.check()
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
        ledger = self._controller.coordinator.machine.ledger
        for device in host.desk.serves:
            is_used = ledger.is_idle(device) or device in ledger.instances
            if is_used == (device in host.desk.aside):
                raise ViolationError(f"{device} of {host.name}: used is {is_used}")
        self.counts["aside"] += len(host.desk.aside)
        for device, instance in host.instances.items():
            if instance.held:
                raise ViolationError(f"{device} holds {instance.held}")
