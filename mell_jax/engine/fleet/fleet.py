"""The fleet is the engine: one instance or many, on one thread, placed by a policy.

    hear guides -> ask for pages -> launch what is free -> wait -> land -> settle

Each instance has one step under way and one behind it, and goes at its own pace
(`Pace`).
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np

from mell_jax.engine.admin import Answer, Command, Sleep
from mell_jax.engine.fleet.administrator import Administrator
from mell_jax.engine.fleet.arrivals import Arrivals, WatchedArrivals
from mell_jax.engine.fleet.conductor import Conductor
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.fleet_instance import FleetInstance
from mell_jax.engine.fleet.instance_pool import InstancePool
from mell_jax.engine.fleet.merge import merge_frames, sum_loads
from mell_jax.engine.fleet.models import FleetModel, shared_page_tokens
from mell_jax.engine.fleet.pace import LOOK_S, Pace
from mell_jax.engine.fleet.patience import LATE_S
from mell_jax.engine.fleet.pauses import Pauses
from mell_jax.engine.fleet.profile import Profile
from mell_jax.engine.fleet.request_state import RequestState
from mell_jax.engine.fleet.sleeping import Sleeping
from mell_jax.engine.fleet.updates import Updates
from mell_jax.engine.fleet.viewer import Viewer
from mell_jax.engine.fleet_view import FleetStats
from mell_jax.engine.frames import (
    Abort,
    EngineInfo,
    EngineLoad,
    FinishReason,
    StepFrame,
    Submit,
    frame_of_tokens,
)
from mell_jax.engine.guides import GuideShop
from mell_jax.engine.intake import choose_seed, refusal, resolve
from mell_jax.engine.params import InvalidRequestError
from mell_jax.engine.step_times import StepTimes
from mell_jax.engine.validate import check_submit, find_info
from mell_jax.scheduler.ids import DeviceGroupId, ModelId, RequestId, Serial
from mell_jax.scheduler.placement import events
from mell_jax.scheduler.placement.machine import Machine

if TYPE_CHECKING:
    from mell_jax.engine.kv_events.news import KvEvents
    from mell_jax.grammar import TokenTable


class Fleet:
    """A fleet runs models on one device group or several.

    Args:
      models: what is served; requests that name no model are for the first one.
      machine: decides where everything runs; new.
      instance_pool: the device groups and their instances.
      profile: what links and instances can do; without it nothing is deferred.
      clock: seconds; epochs depend on it, and how long arrivals wait for room.
      shares_prefixes: whether instances keep pages of prompts for others.
      arrivals: waits for devices; by default with a thread for each.
      shops: of guides, by model; none where no request may have a grammar.
      kv_events: is told of cached prefixes; None for nobody.
    """

    def __init__(
        self,
        *,
        models: Sequence[FleetModel],
        machine: Machine,
        instance_pool: InstancePool,
        clock: Callable[[], float],
        profile: Profile | None = None,
        config: FleetConfig | None = None,
        shares_prefixes: bool = True,
        seed: int = 0,
        arrivals: Arrivals | None = None,
        shops: Mapping[ModelId, GuideShop] | None = None,
        kv_events: "KvEvents | None" = None,
    ) -> None:
        self.machine = machine
        self.instance_pool = instance_pool
        self.times = StepTimes()
        self._shops = dict(shops or {})
        self._kv_events = kv_events
        self._infos = tuple(model.info for model in models)
        self._page_tokens = shared_page_tokens(models)
        self._clock = clock
        self._config = config or FleetConfig()
        self.profile = profile or Profile.unlimited(
            list(instance_pool.devices), models=[model.id for model in models]
        )
        self._conductor = Conductor(
            machine=machine,
            instance_pool=instance_pool,
            transports={model.id: model.transport for model in models},
            profile=self.profile,
            config=self._config,
            clock=clock,
            page_tokens=self._page_tokens,
            shares_prefixes=shares_prefixes,
        )
        updates = Updates(
            self._conductor,
            instance_pool=instance_pool,
            fall_asleep=lambda: self._pauses.sleep(Sleep(level=1)),
        )
        self._pauses = Pauses(
            self._conductor,
            updates=updates,
            sleeping=Sleeping(
                self._conductor,
                instance_pool=instance_pool,
                parking=self._config.parking,
            ),
            arrive=self._arrive,
        )
        self._viewer = Viewer(
            self._conductor,
            devices=list(instance_pool.devices),
            profile=self.profile,
            serving=self._pauses.state,
        )
        self._administrator = Administrator(
            self._conductor,
            updates=updates,
            pauses=self._pauses,
            devices=instance_pool.devices.keys(),
            viewer=self._viewer,
            config=self._config,
            clock=clock,
        )
        self._next_request = 0
        self._rng = np.random.default_rng(seed)
        self._start_s = self._tick_s = self._now_s = clock()
        self._arrivals = arrivals or WatchedArrivals()
        self._pace = Pace(
            self._conductor,
            config=self._config,
            arrivals=self._arrivals,
            times=self.times,
            is_single=len(instance_pool.devices) == 1,
            now_s=self._now_s,
            kv_events=kv_events,
        )

    @property
    def infos(self) -> tuple[EngineInfo, ...]:
        """Returns what is known of every model, with what one instance holds."""
        return self._infos

    @property
    def instances(self) -> dict[DeviceGroupId, FleetInstance]:
        """Returns the instances that serve, by device; do not change it."""
        return self._conductor.instances

    @property
    def conductor(self) -> Conductor:
        """Returns placement and migration, for tests and administration."""
        return self._conductor

    def learn(self, model: str, table: "TokenTable") -> None:
        """Lets requests of a model have grammars, from its tokens; before it serves."""
        self._shops[ModelId(model)].learn(table)

    def close(self) -> None:
        """Waits a moment until no thread waits for a device; no step follows."""
        for shop in self._shops.values():
            shop.close()
        if self._kv_events is not None:
            self._kv_events.close()
        self._arrivals.end(most_s=LATE_S)

    def nudge(self) -> None:
        """Ends the wait of a step, from any thread: a message is there."""
        self._arrivals.ring()

    def submit(self, submit: Submit) -> None:
        """Takes a request in; one that breaks a rule is answered in the next frame."""
        conductor = self._conductor
        try:
            info = find_info(submit, infos=self._infos)
            check_submit(submit, info=info)
            if submit.handle in conductor.requests or self._pauses.holds(submit.handle):
                raise InvalidRequestError("handle", f"{submit.handle} is in use")
        except InvalidRequestError as error:
            conductor.finished.append(refusal(submit, error))
            return
        request = RequestId(self._next_request)
        self._next_request += 1
        seed = choose_seed(submit, rng=self._rng)
        template = resolve(submit, serial=Serial(-1), info=info, seed=seed)
        state = RequestState(request, model=ModelId(info.model_name), template=template)
        if not self._pauses.take(state):
            self._arrive(state)

    def _arrive(self, state: RequestState) -> None:
        cache = self.machine.ledger.spec(state.model).cache
        state.pages = cache.held_by(len(state.template.submit.prompt))
        peak_pages = cache.held_by(state.template.limit)
        self._conductor.arrive(state, peak_pages=peak_pages)

    def abort(self, abort: Abort) -> None:
        """Frees the pages of these sequences now; unknown handles are ignored."""
        for handle in abort.handles:
            self._pauses.abort(handle)
            request = self._conductor.requests.get(handle)
            if request is not None:
                self._conductor.end(request, reason=FinishReason.ABORT)
        self._conductor.settle()

    def administer(self, command: Command) -> Answer | Future[Answer]:
        """Does what an operator asks; see `Administrator.carry_out` for errors."""
        return self._administrator.carry_out(command)

    @property
    def has_work(self) -> bool:
        if self._conductor.finished or self._pauses.is_due:
            return True
        if not self._pauses.is_launching:
            return any(
                instance.inner.is_computing
                or instance.inner.has_ends
                or instance.awaits_pages
                for instance in self.instances.values()
            )
        return any(
            instance.inner.has_work or instance.is_busy
            for instance in self.instances.values()
        )

    @property
    def idle_wait_s(self) -> float | None:
        """Returns how long to wait for messages without work; None: until one comes."""
        if self._conductor.roster.is_opening:
            return LOOK_S
        if self._pauses.is_asleep:
            return None
        return self._config.epoch_s if self._conductor.needs_epochs else None

    @property
    def is_resting(self) -> bool:
        """Returns whether no step is due.

        In a pause and in a sleep none is once all is still, whoever waits. Requests may
        wait for an instance that opens, but not for ever, and while there is none that
        opens they have to get one.
        """
        if self._conductor.roster.may_open(self._now_s):
            return True
        if not self._pauses.is_launching:
            return not self.has_work
        return not (self.has_work or self.machine.waiting)

    def step(self) -> StepFrame | None:
        """Starts steps and brings in results; None when nothing is to be said.

        Raises:
          RuntimeError: no device is left, so that nobody can be served.
        """
        conductor = self._conductor
        self._pauses.settle()  # what was said before has been heard by now
        self._begin_step()
        conductor.see_opened()
        frames: list[StepFrame] = []
        if self._pauses.is_launching:
            frames += self._pace.launch()
        else:
            self._pace.rest()
        if self._config.fault.moves_at(self._pace.steps):
            self._move_everything()
        conductor.shadows.work(now_s=conductor.now_s)  # while devices compute
        frames += self._pace.land(
            most_wait_s=self._most_wait_s(), has_work=self.has_work
        )
        conductor.settle()
        if not (self.instances or conductor.away) and conductor.is_lost:
            raise _lost(conductor.last_error) from conductor.last_error
        if conductor.finished:
            done, conductor.finished = tuple(conductor.finished), []
            frames.append(frame_of_tokens(finished=done))
        merged = merge_frames(frames)
        if merged is not None and merged.finished:
            conductor.tally.see_ends(merged)
        return merged

    def probe(self) -> None:
        """Makes every device that is open compute something; see `Pace.probe`."""
        self._pace.probe()
        self._conductor.settle()

    def load(self, *, compilations: int = 0) -> EngineLoad:
        """Returns how busy all instances are together."""
        loads = [
            instance.inner.load(compilations=compilations)
            for instance in self.instances.values()
        ]
        return sum_loads(
            loads,
            past=self._conductor.tally.past,
            waiting=self.machine.waiting + self._pauses.num_waiting,
            preemptions=self._conductor.tally.preemptions,
            compilations=compilations,
            fleet=self._viewer.view(now_s=self._now_s, anew=not self.has_work),
            phases=self.times.frozen(anew=not self.has_work),
        )

    def stats(self) -> FleetStats:
        """Returns what the fleet has done so far."""
        return self._conductor.tally.stats()

    def _most_wait_s(self) -> float:
        """Returns how long nothing is due but results and messages."""
        if self._conductor.finished:
            return 0.0
        until_wake_s = max(0.0, self.machine.wake_s - self._conductor.now_s)
        return min(self._config.epoch_s, until_wake_s)

    def _begin_step(self) -> None:
        now_s = self._now_s = self._clock()
        self._conductor.begin_round()
        self._conductor.tally.begin_round(now_s)
        self._pace.begin(now_s)
        self._conductor.now_s = now_s - self._start_s
        if now_s - self._tick_s >= self._config.epoch_s:
            self._tick_s = now_s
            self._conductor.tick(now_s - self._start_s)
        self._conductor.wake()

    def _move_everything(self) -> None:
        """Sends every request to the next device that is there."""
        devices = list(self.instances)
        for request in list(self.machine.ledger.requests.values()):
            if request.device not in self.instances or request.move is not None:
                continue
            at = devices.index(request.device)
            for other in devices[at + 1 :] + devices[:at]:
                self._conductor.decide(
                    events.Relocate(request=request.id, device=other)
                )
                if request.move is not None:
                    break
        self._conductor.settle()


def _lost(cause: Exception | None) -> RuntimeError:
    """Returns what ends the engine; `cause` has cost the last device that failed."""
    text = "every device of the fleet has failed or was drained"
    if cause is not None:
        text += f"; the last error was {type(cause).__name__}: {cause}"
    return RuntimeError(text)
