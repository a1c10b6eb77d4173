"""Answers to operators become messages of `mell.v1`; pure functions."""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from google.protobuf.message import Message

from mell_jax.engine.admin import (
    Answer,
    DeviceStatus,
    Migration,
    Picture,
    Placement,
    Placements,
    PolicyChange,
)
from mell_jax.engine.fleet_view import (
    FleetStats,
    FleetView,
    GroupState,
    InstanceView,
    MoveStage,
    MoveView,
)
from mell_jax.serving.admin.serving_answers import serving_response
from mell_jax.serving.proto import mell_admin_pb2 as pb

STATES: Mapping[GroupState, pb.DeviceState] = MappingProxyType(
    {
        GroupState.SERVING: pb.DEVICE_STATE_SERVING,
        GroupState.OPENING: pb.DEVICE_STATE_OPENING,
        GroupState.PARKED: pb.DEVICE_STATE_PARKED,
        GroupState.DRAINING: pb.DEVICE_STATE_DRAINING,
        GroupState.DRAINED: pb.DEVICE_STATE_DRAINED,
        GroupState.LOST: pb.DEVICE_STATE_LOST,
    }
)
STAGES: Mapping[MoveStage, pb.Move.Stage] = MappingProxyType(
    {
        MoveStage.WAITING: pb.Move.STAGE_WAITING,
        MoveStage.RESERVING: pb.Move.STAGE_RESERVING,
        MoveStage.COPYING: pb.Move.STAGE_COPYING,
        MoveStage.RELEASING: pb.Move.STAGE_RELEASING,
    }
)


def response_of(answer: Answer, *, request: Message) -> Message:
    """Writes an operator's answer."""
    match answer:
        case Placements():
            return pb.ListPlacementsResponse(
                placements=map(_placement_of, answer.placements), total=answer.total
            )
        case Migration():
            return pb.MigrateResponse(
                source=answer.source, target=answer.target, is_moving=answer.is_moving
            )
        case DeviceStatus():
            return _device_of(answer, request=request)
        case Picture():
            return _snapshot_of(answer)
        case PolicyChange():
            return pb.SetPolicyResponse(
                policy=answer.policy, policy_before=answer.before, look_s=answer.look_s
            )
        case _:
            return serving_response(answer, request=request)


def _device_of(status: DeviceStatus, *, request: Message) -> Message:
    state = STATES[status.state]
    if isinstance(request, pb.UndrainRequest):
        return pb.UndrainResponse(state=state)
    return pb.DrainResponse(state=state, requests_left=status.requests_left)


def _placement_of(placement: Placement) -> pb.Placement:
    return pb.Placement(
        request=placement.request,
        handle=placement.handle,
        model=placement.model,
        device=placement.device,
        target=placement.target,
        pages=placement.pages,
        prompt_tokens=placement.prompt_tokens,
        is_paused=placement.is_paused,
    )


def _snapshot_of(picture: Picture) -> pb.SnapshotResponse:
    view: FleetView = picture.view
    return pb.SnapshotResponse(
        policy=picture.policy,
        instances=map(_instance_of, view.instances),
        models=[
            pb.Model(
                name=model.name, lower_bound=model.lower_bound, waiting=model.waiting
            )
            for model in view.models
        ],
        moves=map(_move_of, view.moves),
        links=[
            pb.Link(source=source, target=target, bytes_per_s=speed)
            for (source, target), speed in sorted(view.link_bytes_per_s.items())
        ],
        prefill_rates=[
            pb.PrefillRate(device=device, model=model, tokens_per_s=speed)
            for (device, model), speed in sorted(view.prefill_tokens_per_s.items())
        ],
        stats=_stats_of(view.stats),
        devices_in_use=view.devices_in_use,
        lower_bound=view.lower_bound,
        controller_age_s=view.controller_age_s,
    )


def _instance_of(instance: InstanceView) -> pb.Instance:
    return pb.Instance(
        device=instance.device,
        state=STATES[instance.state],
        model=instance.model or None,
        capacity_pages=instance.capacity_pages,
        used_pages=instance.used_pages,
        reserved_pages=instance.reserved_pages,
        cached_pages=instance.cached_pages,
        running=instance.running,
        waiting=instance.waiting,
        paused=instance.paused,
        host=instance.host or None,
        number=instance.number if instance.host else None,
        epoch=instance.epoch if instance.host else None,
    )


def _move_of(move: MoveView) -> pb.Move:
    return pb.Move(
        request=move.request,
        source=move.source,
        target=move.target,
        mode=move.mode or None,
        stage=STAGES[move.stage],
    )


def _name(member: Enum) -> str:
    return member.name.lower()


def _stats_of(stats: FleetStats) -> pb.Stats:
    return pb.Stats(
        moves_begun={_name(mode): count for mode, count in stats.begun.items()},
        moves_ended=[
            pb.EndedMoves(
                reason=_name(kind.reason),
                mode=_name(kind.mode),
                outcome=_name(kind.outcome),
                count=count,
            )
            for kind, count in stats.ended.items()
        ],
        moves_deferred=stats.deferred,
        link_violations=stats.violations,
        sent_bytes=stats.sent_bytes,
        stages=stats.stages,
        activations=stats.activations,
        activation_s=stats.activation_s,
        parkings=stats.parkings,
        losses=stats.losses,
        replays=stats.replays,
        pauses=stats.pauses,
        preemptions=stats.preemptions,
    )
