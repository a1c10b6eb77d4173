"""Administration of an engine of one instance: it can be looked at, and no more."""

from mell_jax.engine.admin import (
    Answer,
    Command,
    ListPlacements,
    NotPossibleError,
    Picture,
    Placement,
    Snapshot,
    UnknownTargetError,
    pick,
)
from mell_jax.engine.fleet_view import (
    FleetStats,
    FleetView,
    GroupState,
    InstanceView,
    ModelView,
)
from mell_jax.engine.instance import Instance

DEVICE = 0


def carry_out(command: Command, *, instance: Instance, model: str) -> Answer:
    """The answer to a command.

    Raises:
      UnknownTargetError: it names a model or a device that is not there.
      NotPossibleError: only a fleet can do it.
    """
    match command:
        case ListPlacements():
            if command.model not in (None, model):
                raise UnknownTargetError(
                    f"no model {command.model!r:.100} is served here; there is {model}"
                )
            if command.device not in (None, DEVICE):
                raise UnknownTargetError(
                    f"there is no device {command.device}; there is {DEVICE}"
                )
            return pick(_placements(instance, model=model), command=command)
        case Snapshot():
            return Picture(policy=None, view=_view(instance, model=model))
        case _:
            raise NotPossibleError(
                "this engine has one instance, so nothing can be placed elsewhere; "
                "start it with --mesh=2x1 or more"
            )


def _placements(instance: Instance, *, model: str) -> list[Placement]:
    batcher = instance.batcher
    return [
        Placement(
            request=serial,
            handle=request.handle,
            model=model,
            device=DEVICE,
            target=None,
            pages=batcher.num_pages(serial),
            prompt_tokens=len(request.submit.prompt),
            is_paused=False,
        )
        for serial, request in instance.requests.items()
    ]


def _view(instance: Instance, *, model: str) -> FleetView:
    load = instance.load()
    seen = InstanceView(
        device=DEVICE,
        state=GroupState.SERVING,
        model=model,
        capacity_pages=load.used_pages + load.cached_pages + load.free_pages,
        used_pages=load.used_pages,
        cached_pages=load.cached_pages,
        running=load.running,
        waiting=load.waiting,
    )
    is_needed = load.running + load.waiting > 0
    return FleetView(
        instances=(seen,),
        models=(ModelView(name=model, lower_bound=int(is_needed), waiting=0),),
        moves=(),
        stats=FleetStats(preemptions=load.preemptions),
        link_bytes_per_s={},
        prefill_tokens_per_s={},
    )
