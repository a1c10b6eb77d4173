"""A thread of the head keeps as many hosts as the fleet needs.

controller: what is needed -> `Scaling`: what is to change -> `Nodes`: done
"""

import threading
import time
from typing import Any, final

import ray
import ray.exceptions
from absl import logging

from mell_jax.on_ray.nodes import Nodes
from mell_jax.on_ray.scaling import Scaling
from mell_jax.scheduler.hosts.need import Need

_LOOK_S = 0.5
_ANSWER_S = 5.0
_TELL_S = 30.0


@final
class Keeper:
    """The keeper begins with `start`, and ends all hosts with `stop`.

    Args:
      nodes: with no host yet.
      scaling: says how many there are to be.
      controller: the actor that knows what is needed.
    """

    def __init__(self, nodes: Nodes, *, scaling: Scaling, controller: Any) -> None:
        self._nodes = nodes
        self._scaling = scaling
        self._controller = controller
        self._is_stopping = threading.Event()
        self._told_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="mell-ray", daemon=True)

    def start(self) -> None:
        """Asks for the first hosts."""
        self._thread.start()

    def stop(self) -> None:
        """Ends all hosts; waits for that."""
        self._is_stopping.set()
        self._thread.join()
        self._nodes.stop()

    def _run(self) -> None:
        while not self._is_stopping.is_set():
            try:
                self._look()
            except ray.exceptions.RayError as error:  # its head may be back soon
                logging.error("Ray does not answer: %s", error)
            self._is_stopping.wait(_LOOK_S)

    def _look(self) -> None:
        nodes = self._nodes
        nodes.look()
        change = self._scaling.look(
            self._need(), living=nodes.living, asked=nodes.asked, now_s=time.monotonic()
        )
        if change.is_withdrawn:
            nodes.withdraw()
        for name in change.give_back:
            nodes.give_back(name)
        if change.start:
            nodes.ask(change.start + nodes.asked)
        self._tell_of_waiting()

    def _need(self) -> Need | None:
        try:
            need: Need = ray.get(self._controller.need.remote(), timeout=_ANSWER_S)
        except ray.exceptions.RayError as error:
            logging.warning("the controller does not answer: %s", type(error).__name__)
            return None
        return need

    def _tell_of_waiting(self) -> None:
        """Says now and then that nodes are awaited: they may not exist."""
        now_s = time.monotonic()
        if not self._nodes.asked:
            self._told_s = now_s
        elif now_s - self._told_s >= _TELL_S:
            self._told_s = now_s
            logging.warning(
                "%d hosts wait for a node of the Ray cluster (ray_node, ray_hosts)",
                self._nodes.asked,
            )
