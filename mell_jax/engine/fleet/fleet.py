"""The fleet is the engine: one instance or many, on one thread, placed by a policy.

    hear guides -> ask for pages -> launch what is free -> wait -> land -> settle

Each instance has one step under way and one behind it, and goes at its own pace: `step`
waits only where none can be launched and none has come, for whichever comes first.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from mell_jax.engine.admin import Answer, Command, Sleep
from mell_jax.engine.fleet.administrator import Administrator
from mell_jax.engine.fleet.arrivals import Arrivals, Result, WatchedArrivals
from mell_jax.engine.fleet.conductor import Conductor
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.fleet_instance import FleetInstance
from mell_jax.engine.fleet.instance_pool import InstancePool
from mell_jax.engine.fleet.merge import merge_frames, sum_loads
from mell_jax.engine.fleet.models import FleetModel, shared_page_tokens
from mell_jax.engine.fleet.patience import LATE_S, Patience
from mell_jax.engine.fleet.pauses import Pauses
from mell_jax.engine.fleet.probes import Probes
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
from mell_jax.engine.intake import refusal, resolve
from mell_jax.engine.params import InvalidRequestError
from mell_jax.engine.step_times import StepPhase, StepTimes
from mell_jax.engine.validate import check_submit, find_info
from mell_jax.scheduler.ids import DeviceGroupId, ModelId, RequestId, Serial
from mell_jax.scheduler.placement import events
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.worker.device import Pending

if TYPE_CHECKING:
    from mell_jax.grammar import TokenTable

LOOK_S = 0.001
"""Between two looks at what nobody tells of: whether an instance is open by now, or
pages are there, when nothing else is to be done."""


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
    ) -> None:
        self.machine = machine
        self.instance_pool = instance_pool
        self.times = StepTimes()
        self._shops = dict(shops or {})
        self._infos = tuple(model.info for model in models)
        self._page_tokens = shared_page_tokens(models)
        self._clock = clock
        self._config = config or FleetConfig()
        profile = profile or Profile.unlimited(
            list(instance_pool.devices), models=[model.id for model in models]
        )
        self._conductor = Conductor(
            machine=machine,
            instance_pool=instance_pool,
            transports={model.id: model.transport for model in models},
            profile=profile,
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
            profile=profile,
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
        self._next_request = self._steps = 0
        self._rng = np.random.default_rng(seed)
        self._start_s = self._tick_s = self._now_s = clock()
        self._patience = Patience(stall_s=self._config.stall_s)
        self._arrivals = arrivals or WatchedArrivals()
        self._is_alone = len(instance_pool.devices) == 1
        self._probes = Probes(
            self._conductor,
            patience=self._patience,
            arrivals=self._arrivals,
            see=self._see,
            now_s=self._now_s,
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
        template = resolve(submit, serial=Serial(-1), info=info, rng=self._rng)
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
        self._probes.look(self._now_s)
        conductor.see_opened()
        frames: list[StepFrame] = []
        if self._pauses.is_launching:
            frames += self._bring_in(_hear, among=self._with_news())
            may_go_on = self._launch_free()
        else:
            may_go_on = self._rest()
        if self._config.fault.moves_at(self._steps):
            self._move_everything()
        conductor.shadows.work(now_s=conductor.now_s)  # while devices compute
        if not may_go_on:
            self._wait()
        frames += self._bring_in(self._land_one, among=list(self.instances.values()))
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
        """Makes every device that is open compute something, and waits for them.

        One that fails is fenced as if a step had. One that gives no answer keeps others
        no longer than a late step would.
        """
        self._probes.ask_all(self._now_s)
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

    def _launch_free(self) -> bool:
        """Starts a step where none waits to land; returns whether one more could be."""
        conductor, may_go_on = self._conductor, False
        free = [
            instance
            for instance in self.instances.values()
            if instance.is_open and instance.inner.landing is None
        ]
        conductor.ask_for_pages(free)
        for instance in free:
            if self.instances.get(instance.device) is not instance:
                continue  # lost or parked meanwhile
            is_launched = conductor.guard(instance, partial(self._launch, instance))
            may_go_on |= bool(is_launched) and instance.inner.landing is None
        return may_go_on

    def _rest(self) -> bool:
        """Lets steps land, and launches none; returns whether that needs no wait."""
        is_computing = [each.inner.rest() for each in self.instances.values()]
        return not any(is_computing)

    def _launch(self, instance: FleetInstance) -> bool:
        self._config.fault.check(instance.device, step=self._steps)
        is_launched = instance.inner.launch(self.times)
        if is_launched:
            self._conductor.tally.launch(instance.device)
        return is_launched

    def _wait(self) -> None:
        """Waits for the first result, or a message, as long as nothing else is due."""
        results = {
            instance.device: self._see(instance, instance.inner.landing)
            for instance in self.instances.values()
            if instance.inner.landing is not None
        }
        if results and self._is_alone:
            return  # it is waited for where it lands
        most_s = self._most_wait_s(is_landing=bool(results))
        if most_s > 0:
            self.times.begin()
            self._arrivals.wait(results, most_s=most_s)
            self.times.end(StepPhase.WAIT)

    def _most_wait_s(self, *, is_landing: bool) -> float:
        conductor = self._conductor
        if conductor.finished:
            return 0.0
        if conductor.roster.is_opening or any(
            instance.awaits_pages for instance in self.instances.values()
        ):
            return LOOK_S
        if not is_landing:
            return LOOK_S if self.has_work else 0.0
        until_wake_s = max(0.0, self.machine.wake_s - conductor.now_s)
        return min(LATE_S, self._config.epoch_s, until_wake_s)

    def _with_news(self) -> list[FleetInstance]:
        """Returns the instances whose guides have said something."""
        return [each for each in self.instances.values() if each.inner.has_news]

    def _bring_in(
        self,
        find: Callable[[FleetInstance], StepFrame | None],
        *,
        among: Sequence[FleetInstance],
    ) -> list[StepFrame]:
        """Returns what `find` brings in of instances; sees what became of it there."""
        conductor, frames = self._conductor, []
        for instance in among:
            frame = None
            if instance.is_open:
                frame = conductor.guard(instance, partial(find, instance))
            if instance.device not in self.instances:
                continue  # its step failed: what it would have said does not count
            if frame is not None:
                conductor.tally.see(frame)
                conductor.ticks.see(frame)
                frames.append(frame)
            if not (instance.inner.ended or instance.is_watching):
                continue  # as in most steps
            for serial in instance.inner.ended:
                conductor.forget(instance.requests[serial])
            conductor.guard(instance, instance.look_around)
            instance.inner.ended.clear()
        return frames

    def _land_one(self, instance: FleetInstance) -> StepFrame | None:
        """Brings in a step that is over; the only device's, by waiting for it."""
        landing = instance.inner.landing
        if landing is None:
            return instance.inner.say_ends()
        if self._is_alone or self._see(instance, landing).is_ready:
            self._patience.forget(instance)
            return instance.inner.land(self.times)
        if self._conductor.can_lose(instance.device) and self._patience.look(
            instance, now_s=self._now_s
        ):
            logging.warning(
                "device %d gives no result; the others go on", instance.device
            )
        return instance.inner.say_ends()

    def _begin_step(self) -> None:
        self._steps += 1
        now_s = self._now_s = self._clock()
        self._conductor.begin_round()
        self._conductor.tally.begin_round(now_s)
        if self._patience.is_tried:
            self._patience.forget_others(self.instances.values())
        self._conductor.now_s = now_s - self._start_s
        if now_s - self._tick_s >= self._config.epoch_s:
            self._tick_s = now_s
            self._conductor.tick(now_s - self._start_s)
        self._conductor.wake()

    def _see(self, instance: FleetInstance, pending: Pending) -> Result:
        """Returns a result as it is seen from here, where a fault may hide it."""
        fault, device = self._config.fault, instance.device
        return fault.result(device, step=self._steps, real=pending)

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


def _hear(instance: FleetInstance) -> StepFrame | None:
    return instance.inner.hear()


def _lost(cause: Exception | None) -> RuntimeError:
    """Returns what ends the engine; `cause` has cost the last device that failed."""
    text = "every device of the fleet has failed or was drained"
    if cause is not None:
        text += f"; the last error was {type(cause).__name__}: {cause}"
    return RuntimeError(text)
