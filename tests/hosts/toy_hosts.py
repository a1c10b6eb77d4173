"""A fleet of toy hosts in threads of this process, with real links between them."""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mell_jax.engine.fleet.models import FleetModel
from mell_jax.engine.fleet.transport import DevicePut
from mell_jax.engine.frames import (
    Abort,
    EngineStopped,
    Finished,
    Handle,
    StepFrame,
    Submit,
)
from mell_jax.engine.hosts.host import Host
from mell_jax.engine.hosts.wires import Leave
from mell_jax.engine.params import SamplingParams
from mell_jax.engine.thread import EngineThread
from mell_jax.hosts.control import Control, ControlConfig
from mell_jax.hosts.front import HostsEngine
from mell_jax.hosts.host_links import HostLinks
from mell_jax.hosts.link import LinkConfig
from mell_jax.hosts.wire import Served
from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.worker.compilation import CompilationCounter
from tests.engine.fleet.toy_fleet import MAX_TOKENS, PAGE_BYTES, TOY, ToyPool
from tests.toy import CONFIG, PAGE_TOKENS, toy_info

LINKS = LinkConfig(secret=b"a toy's", patience=10, beat_s=0.05)
ANY = "127.0.0.1:0"


class ToyControl:
    """A controller in a thread."""

    def __init__(self, *, address: str = ANY, hosts: int, policy: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        config = ControlConfig(
            address=address,
            policy=policy,
            policies=PolicyConfig(epoch_s=0.2),
            least_hosts=hosts,
        )
        self.control = Control(config, links=LINKS)
        begun = asyncio.run_coroutine_threadsafe(self.control.start(), self._loop)
        self.address = begun.result()

    def stop(self) -> None:
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self.control.stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def ask(self, look: Callable[[Control], object]) -> object:
        """Returns what can be seen in the controller, in its own thread."""

        async def see() -> object:
            return look(self.control)

        return asyncio.run_coroutine_threadsafe(see(), self._loop).result()


class ToyHost:
    """A host with toy instances in a thread."""

    def __init__(
        self,
        name: str,
        *,
        controller: str,
        groups: int = 2,
        num_pages: int = 33,
        on_refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.name = name
        pool = ToyPool(
            [[0]] * groups,
            model=CONFIG,
            num_pages=num_pages,
            prefix_cache=True,
            factors={TOY: 1},
            max_tokens=MAX_TOKENS,
            lands_for_owed=False,
        )
        info = toy_info(name=TOY, max_tokens=MAX_TOKENS, num_pages=num_pages)
        spec = ModelSpec(
            capacity_pages=num_pages - 1,
            growth_pages_per_s=1.0,
            max_rows=8,
            page_tokens=PAGE_TOKENS,
            page_bytes=PAGE_BYTES,
        )
        self.links = HostLinks(
            name,
            address=ANY,
            controller=controller,
            config=LINKS,
            on_refused=on_refused,
        )
        self.host = Host(
            name,
            models=[FleetModel(info=info, transport=DevicePut())],
            capacity_pages={ModelId(TOY): spec.capacity_pages},
            pool=pool,
            wires=self.links,
            clock=time.monotonic,
        )
        self.thread = EngineThread(self.host, compilations=CompilationCounter())
        self.ended: list[str] = []
        self._has_stopped = False
        self.thread.start(self._hear)
        self.links.start(
            models=(Served(info=info, spec=spec),),
            post=self._post,
            group_of=self.host.hands.group_of,
        )

    def _hear(self, frame: StepFrame | EngineStopped) -> None:
        if isinstance(frame, EngineStopped) and not self._has_stopped:
            self.ended.append(frame.message)

    def _post(self, heard) -> None:
        self.host.post(heard)
        self.thread.ping()

    def leave(self) -> None:
        """Asks for its requests to be moved away."""
        self._post(Leave())

    def vanish(self) -> None:
        """Ends all at once, as a process that is killed."""
        self.stop()

    def stop(self) -> None:
        if not self._has_stopped:
            self._has_stopped = True
            self.thread.stop()
            self.links.stop()


class ToyFront:
    """A front end and its clients: what each has got."""

    def __init__(self, controller: str) -> None:
        self.engine = HostsEngine(controller, name="front", links=LINKS)
        self.tokens: dict[Handle, list[int]] = {}
        self.finished: dict[Handle, Finished] = {}
        self.prompts: Counter[Handle] = Counter()
        self._changed = threading.Condition()
        self.engine.connect()
        self.engine.start(self._hear)
        self._next = 1

    def submit(self, prompt: Sequence[int], *, count: int, **params) -> Handle:
        handle = Handle(self._next)
        self._next += 1
        self.tokens[handle] = []
        self.engine.send(
            Submit(
                handle=handle,
                prompt=np.array(prompt, np.int32),
                params=SamplingParams(
                    temperature=0.0, max_tokens=count, ignore_eos=True, **params
                ),
            )
        )
        return handle

    def abort(self, handle: Handle) -> None:
        self.engine.send(Abort(handles=(handle,)))

    def wait(self, until: Callable[[], bool], *, most_s: float = 240.0) -> bool:
        """Waits until something is so; returns whether it is."""
        with self._changed:
            return self._changed.wait_for(until, most_s)

    def wait_finished(self, handles: Sequence[Handle]) -> bool:
        return self.wait(lambda: all(h in self.finished for h in handles))

    def _hear(self, frame: StepFrame | EngineStopped) -> None:
        with self._changed:
            if isinstance(frame, StepFrame):
                rows = zip(frame.handles.tolist(), frame.tokens.tolist(), strict=True)
                for handle, token in rows:
                    self.tokens[Handle(handle)].append(token)
                for prompt in frame.prompts:
                    self.prompts[prompt.handle] += 1
                for end in frame.finished:
                    self.finished[end.handle] = end
            self._changed.notify_all()

    def stop(self) -> None:
        self.engine.stop()


@contextlib.contextmanager
def toy_hosts(
    *, hosts: int = 2, policy: str = "consolidate", num_pages: int = 33
) -> Iterator[tuple[ToyControl, list[ToyHost], ToyFront]]:
    """A controller, hosts of two instances each, and a front end."""
    with contextlib.ExitStack() as stack:
        control = ToyControl(hosts=hosts, policy=policy)
        stack.callback(control.stop)
        found = []
        for number in range(hosts):
            host = ToyHost(
                f"host{number}", controller=control.address, num_pages=num_pages
            )
            stack.callback(host.stop)
            found.append(host)
        front = ToyFront(control.address)
        stack.callback(front.stop)
        yield control, found, front
