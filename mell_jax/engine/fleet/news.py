"""A fleet tells the log its news here, in words and fields."""

import sys

from mell_jax.events import Event, tell
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.placement import plan


def tell_fenced(device: DeviceGroupId, *, what: str) -> None:
    """Tells that the error being handled has cost a device; `what` says where."""
    tell(
        Event.DEVICE_FENCED,
        text=f"device {device} {what} and is fenced",
        error=sys.exception(),
        device=device,
    )


def tell_opened(device: DeviceGroupId, model: ModelId, *, took_s: float) -> None:
    tell(
        Event.INSTANCE_OPENED,
        text=f"device {device} serves {model}",
        device=device,
        model=model,
        took_s=round(took_s, 6),
    )


def tell_parked(device: DeviceGroupId, model: ModelId) -> None:
    tell(
        Event.INSTANCE_PARKED,
        text=f"device {device} was given back by {model}",
        device=device,
        model=model,
    )


def tell_aborted(move: plan.Move) -> None:
    """Tells that a move ended where it began, or with its request."""
    tell(
        Event.MIGRATION_ABORTED,
        text=f"a move from device {move.source} to {move.target} was called off",
        move=move.move,
        source=move.source,
        target=move.target,
        is_urgent=move.is_urgent,
    )


def tell_policy(policy: str, *, before: str) -> None:
    tell(
        Event.POLICY_CHANGED,
        text=f"policy {policy} decides from now on, {before} did before",
        policy=policy,
        before=before,
    )


def tell_shadow_ended(policy: str, *, why: str, error: Exception | None) -> None:
    """Tells that nobody knows any more what another policy would do."""
    tell(
        Event.SHADOW_ENDED,
        text=f"the shadow policy {policy} has ended: {why}",
        error=error,
        policy=policy,
        why=why,
    )


def tell_weights(model: ModelId, *, version: str, before: str) -> None:
    tell(
        Event.WEIGHTS_CHANGED,
        text=f"{model} has weights {version} from now on, after {before}",
        model=model,
        version=version,
        before=before,
    )


def tell_serving(state: str, *, freed_bytes: int) -> None:
    """Tells that the engine is "serving", "paused" or "asleep" from now on."""
    tell(
        Event.SERVING_CHANGED,
        text=f"the engine is {state}",
        state=state,
        freed_bytes=freed_bytes,
    )
