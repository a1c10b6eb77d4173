"""A host is the engine of a process that others give work to.

    hear links -> launch what is free -> wait -> land -> tell front ends

It is driven by an `EngineThread`, as a fleet is, but nobody submits to it: what it has
to do comes from its links, by `post`.
"""

import math
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, NoReturn, final

from mell_jax.engine.admin import Answer, Command
from mell_jax.engine.fleet.arrivals import Arrivals, WatchedArrivals
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.instance_pool import InstancePool
from mell_jax.engine.fleet.merge import sum_loads
from mell_jax.engine.fleet.models import FleetModel, shared_page_tokens
from mell_jax.engine.fleet.pace import LOOK_S, Pace
from mell_jax.engine.fleet.patience import LATE_S
from mell_jax.engine.frames import Abort, EngineInfo, EngineLoad, StepFrame, Submit
from mell_jax.engine.guides import GuideShop
from mell_jax.engine.hosts.hands import HostHands
from mell_jax.engine.hosts.load import GroupLoad, HostLoad
from mell_jax.engine.hosts.wires import (
    CutController,
    CutFront,
    CutPeer,
    FromController,
    FromFront,
    Heard,
    Leave,
    MetController,
    OpeningParcel,
    Parcel,
    Pulse,
    Wires,
)
from mell_jax.engine.step_times import StepTimes
from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.desk import Desk
from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement.operator import NotPossibleError

if TYPE_CHECKING:
    from mell_jax.engine.kv_events.news import KvEvents
    from mell_jax.grammar import TokenTable


@final
class Host:
    """A host computes on its device groups what a fleet gives it.

    Args:
      name: of the host, in logs and metrics.
      models: what it can serve.
      capacity_pages: that an instance of each model has.
      pool: its device groups and their instances.
      wires: take what it says.
      clock: seconds.
      prefill_tokens_per_s: of each group, beside its decodes; for moves.
    """

    def __init__(
        self,
        name: str,
        *,
        models: Sequence[FleetModel],
        capacity_pages: Mapping[ModelId, int],
        pool: InstancePool,
        wires: Wires,
        clock: Callable[[], float],
        config: FleetConfig | None = None,
        arrivals: Arrivals | None = None,
        shops: Mapping[ModelId, GuideShop] | None = None,
        kv_events: "KvEvents | None" = None,
        prefill_tokens_per_s: float = math.inf,
    ) -> None:
        self.times = StepTimes()
        self._infos = tuple(model.info for model in models)
        self._shops = dict(shops or {})
        self._kv_events = kv_events
        self._wires = wires
        self._clock = clock
        self._arrivals = arrivals or WatchedArrivals()
        self._is_leaving = False
        self._inbox = queue.SimpleQueue[Heard]()
        self.has_left = threading.Event()  # it is empty, and was to be
        self.desk = Desk(
            name,
            num_groups=len(pool.devices),
            capacity_pages=dict(capacity_pages),
            prefill_tokens_per_s=prefill_tokens_per_s,
        )
        self.hands = HostHands(
            self.desk,
            wires=wires,
            pool=pool,
            infos=self._infos,
            transports={model.id: model.transport for model in models},
            clock=clock,
            page_tokens=shared_page_tokens(models),
        )
        self._pace = Pace(
            self.hands,
            config=config or FleetConfig(),
            arrivals=self._arrivals,
            times=self.times,
            is_single=False,  # a message may come at any time
            now_s=clock(),
            kv_events=kv_events,
        )

    # -- for links -------------------------------------------------------------------

    def post(self, heard: Heard) -> None:
        """Leaves something for the engine; from any thread, without blocking.

        Whoever drives the engine is to be woken, too, if it may rest.
        """
        self._inbox.put(heard)
        self._arrivals.ring()

    # -- for the thread (`Steps`) ----------------------------------------------------

    @property
    def infos(self) -> tuple[EngineInfo, ...]:
        return self._infos

    @property
    def has_work(self) -> bool:
        return not self._inbox.empty() or any(
            instance.inner.has_work or instance.is_busy
            for instance in self.hands.instances.values()
        )

    @property
    def idle_wait_s(self) -> float | None:
        return LOOK_S if self.hands.is_opening else None

    @property
    def is_resting(self) -> bool:
        return not self.has_work

    def learn(self, model: str, table: "TokenTable") -> None:
        """Lets requests of a model have grammars, from its tokens; before it serves."""
        self._shops[ModelId(model)].learn(table)

    def nudge(self) -> None:
        """Ends the wait of a step, from any thread."""
        self._arrivals.ring()

    def close(self) -> None:
        """Waits a moment until no thread waits for a device; no step follows."""
        for shop in self._shops.values():
            shop.close()
        if self._kv_events is not None:
            self._kv_events.close()
        self._arrivals.end(most_s=LATE_S)

    def submit(self, submit: Submit) -> NoReturn:
        """Refuses: requests come from front ends."""
        raise NotImplementedError(f"{submit.handle} is no front end's: a host has none")

    def abort(self, abort: Abort) -> NoReturn:
        """Refuses: front ends end their requests."""
        raise NotImplementedError(f"{abort.handles} are no front end's")

    def administer(self, command: Command) -> Answer | Future[Answer]:
        """Refuses: a host is told what to do by the controller of its fleet.

        Raises:
          NotPossibleError: always.
        """
        raise NotPossibleError(
            f"a host of a fleet does not take {type(command).__name__}: ask the "
            "controller"
        )

    def step(self) -> StepFrame | None:
        """Hears links, starts steps and brings in results; front ends are told."""
        self._hear_all()
        self._pace.begin(self._clock())
        self.hands.see_opened()
        self.hands.hold_back()
        self.hands.send_frames(self._pace.launch())
        self.hands.settle()
        landed = self._pace.land(most_wait_s=LATE_S, has_work=self.has_work)
        self.hands.send_frames(landed)
        self.hands.settle()
        return None

    def probe(self) -> None:
        """Makes every device that is open compute something."""
        self._pace.probe()
        self.hands.settle()

    def load(self, *, compilations: int = 0) -> EngineLoad:
        """Returns how busy all instances are together."""
        loads = [
            instance.inner.load(compilations=compilations)
            for instance in self.hands.instances.values()
        ]
        return sum_loads(
            loads,
            past=self.hands.tally.past,
            waiting=0,
            preemptions=0,
            compilations=compilations,
        )

    # Links.

    def _hear_all(self) -> None:
        while not self._inbox.empty():
            self._hear(self._inbox.get_nowait())
        self.hands.settle()

    def _hear(self, heard: Heard) -> None:
        hands, desk = self.hands, self.desk
        match heard:
            case FromController(message=message):
                hands.do(desk.hear_controller(message))
            case FromFront(front=front, message=OpeningParcel() as parcel):
                hands.open(front, parcel)
            case FromFront(front=front, message=words.Drop() as message):
                hands.do(desk.hear_front(front, message))
            case Parcel():
                hands.deliver(heard)
            case Pulse():
                self._tell_all()
            case Leave():
                self._is_leaving = True
                hands.do(desk.leave())
            case _:
                self._hear_links(heard)

    def _hear_links(self, heard: Heard) -> None:
        """Hears that a link has come or gone."""
        hands, desk = self.hands, self.desk
        match heard:
            case MetController():
                hands.do(desk.meet_controller(whole=hands.whole()))
            case CutController():
                hands.do(desk.cut_controller())
            case CutFront(front=front):
                hands.do(desk.cut_front(front))
            case CutPeer(epoch=epoch):
                hands.do(desk.cut_peer(epoch))

    def _tell_all(self) -> None:
        """Tells front ends, once a beat, where there is room and how busy it is."""
        if self._is_leaving and self.desk.is_empty:
            self.has_left.set()
        fronts = self._wires.fronts
        self.hands.do(self.desk.tell_rooms(fronts))
        if fronts:
            self._wires.tell_load(self._told_load())

    def _told_load(self) -> HostLoad:
        stats = self.hands.tally.stats()
        return HostLoad(
            load=self.load(),
            groups=tuple(
                GroupLoad(
                    device=device,
                    running=instance.inner.batcher.num_running,
                    waiting=instance.inner.batcher.num_waiting,
                    cached_pages=instance.inner.batcher.cache.counts.cached,
                )
                for device, instance in self.hands.instances.items()
            ),
            sent_bytes=stats.sent_bytes,
            stages=stats.stages,
        )
