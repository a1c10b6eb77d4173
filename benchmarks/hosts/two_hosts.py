"""Two hosts in processes of their own; controller and front end are in this one.

    host a, host b  <->  controller, front end: move(), tokens as they come

Nothing moves but what is told to. Prefixes are not kept: a request that comes back
brings all of its pages again.
"""

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, final

import numpy as np

from benchmarks.engine.timers import replaced
from mell_jax.engine.admin import Migrate
from mell_jax.engine.frames import EngineStopped, Handle, StepFrame, Submit
from mell_jax.engine.params import SamplingParams
from mell_jax.hosts.children import Child, host_command, start_piped
from mell_jax.hosts.control import Control, ControlConfig
from mell_jax.hosts.front import HostsEngine
from mell_jax.hosts.host_file import LOCAL, HostLine
from mell_jax.hosts.link import LinkConfig
from mell_jax.launch_hosts import host_orders
from mell_jax.scheduler.hosts.messages import LinkMeasured
from mell_jax.scheduler.ids import DeviceGroupId, RequestId

WAIT_S = 900.0
PATIENCE = 200  # beats: the machine may be busy
_LOOK_S = 0.002
NAMES = ("a", "b")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A request has moved, between these times."""

    began_s: float
    ended_s: float


@final
class TwoHosts:
    """The hosts serve, and what they say is noted.

    Attributes:
      times: when each token of each request came.
      measured: what hosts said of the ways between them.
      children: the hosts' processes; one that ends is no host any more.
    """

    def __init__(self, *, secret: bytes) -> None:
        self.times: dict[Handle, list[float]] = {}
        self.measured: list[LinkMeasured] = []
        self.children: list[Child] = []
        self.links = LinkConfig(secret=secret, patience=PATIENCE)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._control = Control(
            ControlConfig(
                address="127.0.0.1:0", policy="pinned_spread", least_hosts=len(NAMES)
            ),
            links=self.links,
        )
        self.address = self._call(self._control.start())
        self._front = HostsEngine(self.address, name="front", links=self.links)
        self._next = 1
        self._ended: list[str] = []

    def begin(self) -> None:
        """Waits until there is a fleet.

        Raises:
          RuntimeError: a host does not start.
        """
        self._front.start(self._hear)
        threading.Thread(target=self._front.connect, daemon=True).start()
        self._wait(lambda: bool(self._front.infos))
        self._wait(lambda: self._call(self._has_hosts()))

    def submit(self, length: int, *, new_tokens: int) -> Handle:
        """Asks for so many tokens after a random prompt."""
        handle = Handle(self._next)
        self._next += 1
        self.times[handle] = []
        rng = np.random.default_rng(handle)
        prompt = rng.integers(2, self._front.infos[0].vocab_size, length, np.int32)
        params = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        self._front.send(Submit(handle=handle, prompt=prompt, params=params))
        return handle

    def wait_tokens(self, handles: Sequence[Handle], *, more: int) -> None:
        """Waits until each has so many tokens more."""
        due = {handle: len(self.times[handle]) + more for handle in handles}
        self._wait(lambda: all(len(self.times[h]) >= due[h] for h in handles))

    def homes(self) -> dict[RequestId, DeviceGroupId | None]:
        """Returns where each request runs."""
        return self._call(self._homes())

    def move(self, request: RequestId) -> Move:
        """Moves a request to the other host, and waits for that."""
        home = self.homes()[request]
        others = self._call(self._instances())
        (target,) = [device for device in others if device != home]
        began_s = time.perf_counter()
        self._front.ask(Migrate(request=request, device=target)).result()
        self._wait(lambda: self.homes().get(request) == target)
        return Move(began_s=began_s, ended_s=time.perf_counter())

    def end(self) -> None:
        """Ends what is in this process."""
        self._front.stop()
        self._call(self._control.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # The front end.

    def _hear(self, frame: StepFrame | EngineStopped) -> None:
        now_s = time.perf_counter()
        if isinstance(frame, EngineStopped):
            return
        for handle in frame.handles.tolist():
            self.times[Handle(handle)].append(now_s)
        self._ended += [end.message for end in frame.finished]

    # The controller.

    async def _has_hosts(self) -> bool:
        coordinator = self._control.coordinator
        if coordinator is None or coordinator.is_adopting:
            return False
        hosts, ledger = coordinator.roll.hosts.values(), coordinator.machine.ledger
        devices = [device for host in hosts for device in host.devices]
        return len(hosts) == len(NAMES) and all(
            ledger.is_idle(device) or device in ledger.instances for device in devices
        )

    async def _homes(self) -> dict[RequestId, DeviceGroupId | None]:
        assert self._control.coordinator is not None
        owners = self._control.coordinator.controller.owners
        return {request: owner.home for request, owner in owners.items()}

    async def _instances(self) -> list[DeviceGroupId]:
        assert self._control.coordinator is not None
        return list(self._control.coordinator.machine.ledger.instances)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Notes what hosts measure, within the block."""
        coordinator = self._control.coordinator
        assert coordinator is not None
        heard = coordinator.heard

        def hear(peer: Any, message: Any, *, now_s: float) -> Any:
            if isinstance(message, LinkMeasured):
                self.measured.append(message)
            return heard(peer, message, now_s=now_s)

        with replaced(coordinator, "heard", hear):
            yield

    def _call(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _wait(self, is_so: Callable[[], bool]) -> None:
        end_s = time.monotonic() + WAIT_S
        while not is_so():
            if self._ended:
                raise RuntimeError(f"a request has ended: {self._ended[0]}")
            if any(child.process.poll() is not None for child in self.children):
                raise RuntimeError("a host has ended: see what it has written")
            if time.monotonic() > end_s:
                raise RuntimeError(f"nothing happens within {WAIT_S} s")
            time.sleep(_LOOK_S)


@contextlib.contextmanager
def two_hosts(given: dict[str, Any]) -> Iterator[TwoHosts]:
    """Yields two hosts that serve.

    Args:
      given: their settings.

    Raises:
      RuntimeError: they do not serve in time.
      OSError: they cannot be started.
    """
    secret = secrets.token_bytes(32)
    fleet = TwoHosts(secret=secret)
    with contextlib.ExitStack() as stack:
        stack.callback(fleet.end)
        for name in NAMES:
            line = HostLine(name=name, where=LOCAL, flags=())
            orders = host_orders(
                name,
                controller=fleet.address,
                secret=secret,
                given={**given, "patience_beats": PATIENCE},
            )
            child = Child(
                f"host {name}",
                partial(
                    start_piped,
                    host_command(line, flags=()),
                    first_line=orders.encode(),
                    wants_output=False,
                ),
            )
            stack.callback(child.stop)
            fleet.children.append(child)
        fleet.begin()
        yield fleet
