"""Ray's actors run a host each, and one of them the controller.

Ray starts these, and says when one is gone. What they tell each other goes over the
fleet's own links: no step, token or page passes through Ray or its object store, which
would hold a node for as long as there is one object on it.
"""

import asyncio
import json
import threading
from typing import final

import msgspec
from absl import logging

from mell_jax.hosts.children import USELESS, Child, host_command, start_piped
from mell_jax.hosts.controller_main import Orders, new_control
from mell_jax.hosts.host_file import LOCAL, HostLine
from mell_jax.scheduler.hosts.need import Need, need_of
from mell_jax.serving.observe.logs import Place, set_up_logging

_LOOK_S = 0.2


@final
class HostActor:
    """One host, as a process beside this one, which starts again if it ends.

    One that ends by a usage error before it was ever in the fleet does not. If the
    actor ends, however it does, so does the host: it hears that by its standard input.
    Its methods run on several threads.

    Args:
      name: of the host.
      orders: a line of JSON, as the head of a fleet tells its hosts.
    """

    def __init__(self, name: str, *, orders: str) -> None:
        given = json.loads(orders)["given"]
        set_up_logging(
            given.get("log_format", "text"),
            verbosity=logging.WARNING,
            process=f"keeper of host {name}",
            place=Place(f"keeper of host {name}"),
        )
        self._was_seen = False
        command = host_command(HostLine(name=name, where=LOCAL, flags=()), flags=())
        self._child = Child(
            f"host {name}",
            lambda: start_piped(
                command,
                first_line=orders.encode(),
                wants_output=False,
                wants_errors=True,
            ),
            is_useless=lambda status: status in USELESS and not self._was_seen,
        )
        self._is_over = threading.Event()

    def hold(self) -> str:
        """Waits until the host has left; raises, as Ray has it, if the actor ends.

        Returns an empty text, or why the host is not started again.
        """
        while not self._is_over.wait(_LOOK_S):
            if self._child.trouble:
                return self._child.trouble
        return ""

    def see(self) -> None:
        """Notes that the host was in the fleet."""
        self._was_seen = True

    def leave(self, *, most_s: float) -> None:
        """Has the host's requests moved away, and ends it; both within `most_s`."""
        self._child.leave(most_s=most_s)
        self._is_over.set()

    def end(self) -> None:
        """Ends the host as it is."""
        self._child.stop()
        self._is_over.set()


@final
class ControllerActor:
    """The controller of a fleet, on a thread of its own.

    Args:
      orders: as `hosts/controller_main.py` reads them, with a port that is named, so
        that one that Ray starts again listens there as well.

    Raises:
      OSError: the address cannot be listened on.
    """

    def __init__(self, orders: str) -> None:
        told = msgspec.json.decode(orders, type=Orders)
        self._loop = asyncio.new_event_loop()
        threading.Thread(
            target=self._loop.run_forever, name="mell-controller", daemon=True
        ).start()
        self._control = new_control(told)
        started = asyncio.run_coroutine_threadsafe(self._control.start(), self._loop)
        self._address = started.result()

    def address(self) -> str:
        """Returns where it listens."""
        return self._address

    def need(self) -> Need:
        """Returns what the fleet needs now."""
        return asyncio.run_coroutine_threadsafe(self._need(), self._loop).result()

    async def _need(self) -> Need:
        coordinator = self._control.coordinator
        return need_of(coordinator) if coordinator is not None else Need()
