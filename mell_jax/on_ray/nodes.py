"""Hosts on nodes of a Ray cluster: asked for, begun, watched, given back.

    placement group (STRICT_SPREAD)  -> nodes, none of which has a host yet
    one actor on each of them        -> it holds the node, and nothing else does

The group only finds the nodes, or has Ray's autoscaler bring them, and is removed then:
a group holds its nodes all together, and hosts are to be given back one by one.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, final

import ray
import ray.exceptions
from absl import logging
from ray.util.placement_group import (
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mell_jax.on_ray.actors import HostActor

REST_S = 300
"""Of a node on which a host cannot start: its devices may be another's until then."""
_END_S = 30.0
_THREADS = 3  # of an actor: it holds, leaves, ends
_NAMED = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}


def actor_options(resources: Mapping[str, float]) -> dict[str, Any]:
    """Returns what an actor is to take of its node, in Ray's words."""
    own = {k: v for k, v in resources.items() if k not in _NAMED}
    named = {_NAMED[k]: v for k, v in resources.items() if k in _NAMED}
    return {"num_cpus": 0, **named, "resources": own}


@dataclass(slots=True, kw_only=True)
class _Hosted:
    node: str
    actor: Any
    held: Any  # is there once the actor has ended, or its host
    is_leaving: bool = False
    was_seen: bool = False  # in the fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    group: Any
    count: int


@final
class Nodes:
    """The nodes that hosts have; all methods belong to one thread.

    A node on which a host cannot start rests for a while.

    Args:
      resources: that a host takes of its node, by Ray's names.
      orders_of: returns what a host of some name is told.
      seen: returns the names of hosts that are or have been in the fleet.
      drain_s: a host that is given back has so long to have its requests moved away.

    Attributes:
      trouble: why a host cannot start, of the latest one; any thread may read it.
    """

    def __init__(
        self,
        resources: Mapping[str, float],
        *,
        orders_of: Callable[[str], str],
        seen: Callable[[], Collection[str]],
        drain_s: float,
    ) -> None:
        self.trouble = ""
        self._seen = seen
        self._resting: dict[str, float] = {}  # nodes, and when they may be tried again
        self._resources = dict(resources)
        self._orders_of = orders_of
        self._drain_s = drain_s
        self._hosted: dict[str, _Hosted] = {}
        self._asked: _Asked | None = None
        self._begun = 0

    @property
    def living(self) -> set[str]:
        """Returns the names of hosts that have a node and are to stay."""
        return {name for name, one in self._hosted.items() if not one.is_leaving}

    @property
    def asked(self) -> int:
        """Returns the number of hosts that have no node yet."""
        return self._asked.count if self._asked is not None else 0

    def ask(self, count: int) -> None:
        """Asks for nodes that have no host yet; withdraws what it asked for before."""
        self.withdraw()
        now_s = time.monotonic()
        resting = {node for node, end_s in self._resting.items() if now_s < end_s}
        taken = sorted({one.node for one in self._hosted.values()} | resting)
        apart = {"ray.io/node-id": f"!in({','.join(taken)})"} if taken else {}
        group = placement_group(
            [self._resources] * count,
            strategy="STRICT_SPREAD",
            bundle_label_selector=[apart] * count if apart else None,
        )
        self._asked = _Asked(group=group, count=count)
        logging.info("%d nodes are asked for", count)

    def withdraw(self) -> None:
        """Asks no more."""
        if self._asked is not None:
            remove_placement_group(self._asked.group)
            self._asked = None

    def look(self) -> None:
        """Begins hosts on nodes that were found, and forgets hosts that are gone."""
        for name, one in list(self._hosted.items()):
            if ray.wait([one.held], timeout=0)[0]:
                self._forget(name, one)
            elif name in self._seen() and not one.was_seen:
                one.was_seen = True
                one.actor.see.remote()
        if self._asked is not None:
            found = placement_group_table(self._asked.group)
            if found["state"] == "CREATED":
                self.withdraw()
                for node in found["bundles_to_node_id"].values():
                    self._begin(node)

    def give_back(self, name: str) -> None:
        """Has a host leave; its node is free afterwards."""
        one = self._hosted[name]
        one.is_leaving = True
        one.actor.leave.remote(most_s=self._drain_s)
        logging.warning("host %s is idle and gives its node back", name)

    def stop(self) -> None:
        """Ends all hosts, and waits for that."""
        self.withdraw()
        ends = [one.actor.end.remote() for one in self._hosted.values()]
        ray.wait(ends, num_returns=len(ends), timeout=_END_S) if ends else None
        for one in self._hosted.values():
            ray.kill(one.actor)
        self._hosted.clear()

    def _begin(self, node: str) -> None:
        self._begun += 1
        name = f"ray-{self._begun}"
        actor = (
            ray.remote(HostActor)
            .options(
                **actor_options(self._resources),
                max_restarts=0,  # a host that was lost begins anew, elsewhere
                max_concurrency=_THREADS,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            )
            .remote(name, orders=self._orders_of(name))
        )
        self._hosted[name] = _Hosted(node=node, actor=actor, held=actor.hold.remote())

    def _forget(self, name: str, one: _Hosted) -> None:
        """Frees the node of a host that is gone, whether it left or was lost."""
        del self._hosted[name]
        try:
            trouble = ray.get(one.held)
            if trouble:
                logging.error("%s: node %s rests for %d s", trouble, one.node, REST_S)
                self.trouble = trouble
                self._resting[one.node] = time.monotonic() + REST_S
        except ray.exceptions.RayError as error:
            logging.error("host %s is lost: %s", name, type(error).__name__)
        ray.kill(one.actor)
