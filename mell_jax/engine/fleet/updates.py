"""Updates change the weights of a model on all devices, between two steps.

checked -> swapped on each set of devices -> a new generation -> open requests

What is computed after the swap is of the new generation: no page of an older one is
found by it. Requests that go on with pages of an older one are *mixed*: they share
pages with nobody and move by pages alone, so that their tokens are the same, moved or
not.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import final

import jax

from mell_jax.engine.admin import (
    NameWeights,
    OpenRequests,
    PrefixCacheReset,
    ResetPrefixCache,
    UpdateWeights,
    WeightsInfo,
    WeightsUpdated,
)
from mell_jax.engine.fleet.conductor import Conductor
from mell_jax.engine.fleet.instance_pool import InstancePool
from mell_jax.engine.fleet.news import tell_weights
from mell_jax.engine.frames import FinishReason
from mell_jax.engine.new_weights import Generation, NewWeights
from mell_jax.engine.params import InvalidRequestError
from mell_jax.scheduler.ids import DeviceGroupId, ModelId, Serial
from mell_jax.scheduler.migration.records import OpenMove
from mell_jax.scheduler.placement.operator import NotPossibleError, UnknownTargetError
from mell_jax.scheduler.transfer import Mode
from mell_jax.worker.held_weights import HeldWeights

_MOST_DIGITS = 19  # of a version that is counted on; others are names

Part = tuple[int, jax.Array]
"""A place in the weights, and what is to be there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    """These groups have the same devices, and share the weights there."""

    held: HeldWeights
    devices: tuple[DeviceGroupId, ...]


@final
class Updates:
    """Updates are carried out for one fleet, on its thread.

    Args:
      conductor: of the fleet.
      instance_pool: has the weights.
      fall_asleep: makes no more steps until weights are there again.
    """

    def __init__(
        self,
        conductor: Conductor,
        *,
        instance_pool: InstancePool,
        fall_asleep: Callable[[], object],
    ) -> None:
        self._conductor = conductor
        self._instance_pool = instance_pool
        self._fall_asleep = fall_asleep

    def info(self) -> tuple[WeightsInfo, ...]:
        """Returns which weights the models have."""
        return tuple(
            self._info(model) for model in self._conductor.machine.ledger.models
        )

    def carry_out(self, command: UpdateWeights) -> WeightsUpdated:
        """Changes the weights of a model.

        Raises:
          UnknownTargetError: there is no such model.
          InvalidRequestError: the weights do not fit; nothing has changed.
          NotPossibleError: streamed weights cannot be had, or broke off on the first
            device, which is lost; the others have those from before. Where there is no
            other, it sleeps until whole ones are given.
        """
        model = self.find_model(command.model)
        before = self._conductor.generations[model]
        number = before.number + 1
        version = command.version or _next_version(before, number=number)
        self._swap(model, command.weights)
        generation = Generation(number=number, version=version)
        restarted, aborted = self._turn(model, generation, command.open_requests)
        tell_weights(model, version=version, before=before.version)
        return WeightsUpdated(
            model=model,
            version=version,
            nbytes=command.weights.nbytes,
            restarted=restarted,
            aborted=aborted,
        )

    def name(self, command: NameWeights) -> None:
        """Calls the weights of a model something else from the next step on.

        Raises:
          UnknownTargetError: there is no such model.
        """
        model, conductor = self.find_model(command.model), self._conductor
        before = conductor.generations[model]
        now = Generation(number=before.number, version=command.version)
        conductor.generations[model] = now
        for instance in conductor.instances.values():
            if instance.model == model:
                instance.inner.rename(now)
        tell_weights(model, version=now.version, before=before.version)

    def reset_prefix_cache(self, command: ResetPrefixCache) -> PrefixCacheReset:
        """Makes every page unfindable that is cached now.

        Raises:
          UnknownTargetError: there is no such model.
        """
        only = None if command.model is None else self.find_model(command.model)
        return PrefixCacheReset(
            pages=sum(
                instance.inner.batcher.cache.forget_all()
                for instance in self._conductor.instances.values()
                if only in (None, instance.model)
            )
        )

    def find_model(self, name: str | None) -> ModelId:
        """Returns a model that is served, by default the first.

        Raises:
          UnknownTargetError: there is none of that name.
        """
        models = self._conductor.machine.ledger.models
        if name is None:
            return models[0]
        if name not in models:
            raise UnknownTargetError(
                f"no model {name!r:.100} is served here; there is {', '.join(models)}"
            )
        return ModelId(name)

    def _info(self, model: ModelId) -> WeightsInfo:
        generation = self._conductor.generations[model]
        (first, *_) = sets = self._sets(model)
        return WeightsInfo(
            model=model,
            version=generation.version,
            updates=generation.number,
            nbytes=first.held.nbytes,
            is_dropped=any(each.held.is_dropped for each in sets),
        )

    # -- the swap ------------------------------------------------------------------

    def _sets(self, model: ModelId) -> list[_Set]:
        """Returns what is to be swapped, but on devices that are lost."""
        found: dict[int, list[DeviceGroupId]] = {}
        held = self._instance_pool.held(model)
        for device, each in held.items():
            if device not in self._conductor.roster.lost:
                found.setdefault(id(each), []).append(device)
        return [
            _Set(held=held[devices[0]], devices=tuple(devices))
            for devices in found.values()
        ]

    def _swap(self, model: ModelId, weights: NewWeights) -> None:
        """Swaps them on every set; those that are not streamed are checked before."""
        sets = self._sets(model)
        if weights.is_streamed:
            streams = [
                (each, weights.parts(each.devices[0], over=each.held.own))
                for each in sets
            ]
            self._put(streams, weights=weights, waits=True)
            return
        try:
            ready = [
                (each, list(weights.parts(each.devices[0], over=_no_array)))
                for each in sets
            ]
        except Exception as error:  # the edge: whatever makes weights may fail
            raise _not_to_be_had(error) from error
        try:
            for each, parts in ready:
                each.held.check_all(parts, kept=weights.kept)
        except ValueError as error:
            raise InvalidRequestError("weights", str(error)) from error
        self._put(ready, weights=weights, waits=False)

    def _put(
        self,
        sets: Sequence[tuple[_Set, Iterable[Part]]],
        *,
        weights: NewWeights,
        waits: bool,
    ) -> None:
        """Swaps array by array; devices where that breaks off have both kinds.

        Args:
          sets: with the arrays of each.
          weights: whose these are.
          waits: for each array to arrive, or many would be made at once.
        """
        swapped = 0
        for each, parts in sets:
            places: list[int] = []
            try:
                for place, array in parts:
                    each.held.replace(place, array, is_own=weights.is_own)
                    places.append(place)
                    if waits:
                        each.held.wait_for(place)
                each.held.check_places(places, kept=weights.kept)
            except Exception as error:  # the edge: so may what puts them in place
                if not places and not swapped and not each.held.is_deleted:
                    raise _not_to_be_had(error) from error
                if len(sets) == 1:
                    raise self._without_any(each, error) from error
                self._give_up(each, error)
                if not swapped:
                    raise NotPossibleError(
                        f"the weights broke off after {len(places)} arrays "
                        f"({type(error).__name__}: {error}) on device "
                        f"{each.devices[0]}, which has no whole ones any more; others "
                        "have those from before"
                    ) from error
            else:
                swapped += 1

    def _without_any(self, broken: _Set, error: Exception) -> NotPossibleError:
        """Sleeps without the weights that were swapped in part; returns why."""
        self._fall_asleep()
        broken.held.drop()
        return NotPossibleError(
            f"the weights broke off half way ({type(error).__name__}: {error}), and no "
            "device has whole ones any more: the engine sleeps; give whole ones by an "
            "update, then wake it"
        )

    def _give_up(self, broken: _Set, error: Exception) -> None:
        """Leaves devices that have weights of both kinds: fenced, or without any."""
        for device in broken.devices:
            if device in self._conductor.away:
                broken.held.drop()
            else:
                self._conductor.fence(device, error)
        self._conductor.settle()

    # -- open requests -------------------------------------------------------------

    def _turn(
        self, model: ModelId, generation: Generation, open_requests: OpenRequests
    ) -> tuple[int, int]:
        """Has all instances begin a generation; returns what restarted and ended."""
        conductor, aborted = self._conductor, 0
        restarts = open_requests == "restart"
        if open_requests == "abort":
            open_ones = conductor.states_of(model)
            aborted = len(open_ones)
            for state in open_ones:
                conductor.end(state.id, reason=FinishReason.ABORT)
        self._call_off(model, which=(lambda _: True) if restarts else self._is_unfit)
        conductor.generations[model] = generation
        restarted = sum(
            instance.inner.turn(generation, restarts=restarts)
            for instance in conductor.instances.values()
            if instance.model == model
        )
        self._note_mixed(model)
        return restarted, aborted

    def _call_off(self, model: ModelId, *, which: Callable[[OpenMove], bool]) -> None:
        """Calls off moves that are under way and can not go on as they began."""
        conductor = self._conductor
        conductor.settle()
        for state in conductor.states_of(model):
            owner = conductor.controller.owners.get(state.id)
            waiting = owner.next_move if owner is not None else None
            move = owner.move if owner is not None else None
            is_off = move is not None and which(move)
            if is_off or (waiting is not None and waiting.mode is Mode.TOKENS):
                conductor.call_off(state.id)
        conductor.hear_reports()  # others begin when all have turned

    def _is_unfit(self, move: OpenMove) -> bool:
        """Tells whether a move would not bring the pages that the source has."""
        if move.order.mode is Mode.TOKENS:
            return True
        source = self._conductor.instances.get(move.source)
        serial = Serial(move.source_copy_id)
        has_pages = (
            source is not None
            and source.inner.knows(serial)
            and source.inner.sequences.computed(serial) > 0
        )
        return not has_pages

    def _note_mixed(self, model: ModelId) -> None:
        """Notes which requests go on with pages of weights from before."""
        conductor = self._conductor
        for state in conductor.states_of(model):
            state.is_mixed = False
            owner = conductor.controller.owners.get(state.id)
            if owner is None or owner.home not in conductor.instances:
                continue
            home, serial = conductor.instances[owner.home].inner, Serial(owner.copy_id)
            if home.knows(serial):
                state.is_mixed = home.sequences.sequence(serial).is_mixed


def _no_array(_: int) -> None:
    """Lets nothing be written over before all is checked."""


def _not_to_be_had(error: Exception) -> NotPossibleError:
    return NotPossibleError(
        f"the weights cannot be had ({type(error).__name__}: {error}); nothing has "
        "changed"
    )


def _next_version(before: Generation, *, number: int) -> str:
    """Returns a name for weights that come without one: not that of those before."""
    is_number = before.version.isascii() and before.version.isdigit()
    counted = is_number and len(before.version) < _MOST_DIGITS
    return str(max(number, int(before.version) + 1 if counted else 0))
