"""Only a fleet has these metrics: devices, pages, moves, downtime."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping

from mell_jax.engine.fleet_view import (
    FleetStats,
    FleetView,
    GroupState,
    InstanceView,
    MoveEnd,
    MoveOutcome,
    MoveReason,
    ServingView,
)
from mell_jax.scheduler.transfer import Mode
from mell_jax.serving.metrics.families import (
    Labels,
    Metric,
    counter,
    gauge,
    histogram,
)


def fleet_metrics(view: FleetView) -> Iterator[Metric]:
    """Yields all metrics of a fleet."""
    yield from _devices(view)
    yield from _hosts(view)
    yield from _instances(view)
    yield from _moves(view)
    if view.serving is not None:
        yield from _serving(view.serving)
    yield from _counts(view.stats, names=view.names)
    yield from _profile(view)


def _hosts(view: FleetView) -> Iterator[Metric]:
    """Yields what is told of several hosts alone."""
    if view.controller_age_s is None:
        return
    yield gauge(
        "mell:controller_age_seconds",
        "Time since the controller has told who is where; more than a few: it is away.",
        [({}, view.controller_age_s)],
    )
    epochs = {each.host: each.epoch for each in view.instances}
    yield gauge(
        "mell:host_epoch",
        "The epoch under which a host was admitted; another one when it comes anew.",
        [({"host": host}, epoch) for host, epoch in epochs.items()],
    )


def _devices(view: FleetView) -> Iterator[Metric]:
    yield gauge("mell:devices", "Device groups.", [({}, len(view.instances))])
    yield gauge(
        "mell:devices_in_use",
        "Device groups that serve or are about to.",
        [({}, view.devices_in_use)],
    )
    yield gauge(
        "mell:devices_lower_bound",
        "Device groups that all requests need at least, however they are packed (L2).",
        [({"model_name": each.name}, each.lower_bound) for each in view.models],
    )
    serving = [each for each in view.instances if each.state is GroupState.SERVING]
    capacity = sum(each.capacity_pages for each in serving)
    free = sum(each.free_pages for each in serving)
    yield gauge(
        "mell:page_fragmentation_ratio",
        "Share of the pages of devices in use that no request holds, 0 to 1.",
        [({}, free / capacity if capacity else 0.0)],
    )


def _instances(view: FleetView) -> Iterator[Metric]:
    yield gauge(
        "mell:instance_state",
        "1 for what a device group does: serving, opening, parked, draining, drained "
        "or lost.",
        [
            ({**_device(each), "state": state.value}, each.state is state)
            for each in view.instances
            for state in GroupState
        ],
    )
    yield gauge(
        "mell:instance_pages",
        "Pages in the books: held, reserved for requests on their way, free.",
        [
            ({**_device(each), "kind": kind}, pages)
            for each in view.instances
            for kind, pages in (
                ("used", each.used_pages),
                ("reserved", each.reserved_pages),
                ("free", each.free_pages),
            )
        ],
    )
    for name, text, field in (
        ("cached_pages", "Pages of prefixes that no request has.", "cached_pages"),
        ("requests_running", "Requests that have a row.", "running"),
        ("requests_waiting", "Requests that wait for a row.", "waiting"),
        ("requests_paused", "Requests that cannot grow.", "paused"),
    ):
        yield gauge(
            f"mell:instance_{name}",
            text,
            [(_device(each), getattr(each, field)) for each in view.instances],
        )


def _device(instance: InstanceView) -> Labels:
    if instance.host:
        own = {"host": instance.host, "device": str(instance.number)}
    else:
        own = {"device": str(instance.device)}
    return {**own, "model_name": instance.model}


def _moves(view: FleetView) -> Iterator[Metric]:
    called = view.names
    moving = Counter(
        (called[move.source], called[move.target], move.mode, move.stage.value)
        for move in view.moves
    )
    names = ("source", "target", "mode", "stage")
    yield gauge(
        "mell:requests_moving",
        "Requests on their way from one device group to another.",
        [
            (dict(zip(names, kind, strict=True)), count)
            for kind, count in sorted(moving.items())
        ],
    )


def _serving(serving: ServingView) -> Iterator[Metric]:
    yield gauge("mell:paused", "1 while no steps are begun.", [({}, serving.is_paused)])
    yield gauge(
        "mell:sleep_freed_bytes",
        "Memory of devices that a sleep gave back, while it lasts.",
        [({}, serving.freed_bytes)],
    )
    yield counter(
        "mell:weights_updates",
        "Times that the weights of a model were replaced.",
        [({"model_name": name}, count) for name, count in serving.updates.items()],
    )


def _counts(stats: FleetStats, *, names: Mapping[int, str]) -> Iterator[Metric]:
    yield counter(
        "mell:migrations",
        "Moves that are over: why they began, how they went, how they ended.",
        [
            (
                {
                    "reason": reason.name.lower(),
                    "mode": mode.name.lower(),
                    "outcome": outcome.name.lower(),
                },
                stats.ended.get(MoveEnd(reason=reason, mode=mode, outcome=outcome), 0),
            )
            for reason in MoveReason
            for mode in Mode
            for outcome in MoveOutcome
        ],
    )
    yield counter(
        "mell:migrations_begun",
        "Moves that have begun.",
        [({"mode": mode.name.lower()}, stats.begun.get(mode, 0)) for mode in Mode],
    )
    yield counter(
        "mell:migrations_between",
        "Moves that were committed, by device groups; those pairs that had one.",
        [
            ({"source": names[source], "target": names[target]}, count)
            for (source, target), count in sorted(stats.carried.items())
        ],
    )
    for name, text, value in (
        ("migration_bytes", "Bytes of pages and tokens sent.", stats.sent_bytes),
        ("migration_stages", "Chunks they were sent in.", stats.stages),
        ("migrations_deferred", "Moves put off by an epoch.", stats.deferred),
        ("migration_violations", "Urgent moves beyond a link.", stats.violations),
        ("activations", "Device groups made ready.", stats.activations),
        ("activation_seconds", "Time that took.", stats.activation_s),
        ("parkings", "Device groups given back.", stats.parkings),
        ("devices_lost", "Device groups that failed.", stats.losses),
        ("pauses", "Times that a request could not grow at once.", stats.pauses),
    ):
        yield counter(f"mell:{name}", text, [({}, value)])
    yield counter(
        "mell:requests_recovered",
        "Requests started again elsewhere when their device failed.",
        [({"how": "replay"}, stats.replays)],
    )
    yield histogram(
        "mell:migration_stall_seconds",
        "Between the last token before a move and the first one after it.",
        [({}, stats.gap_s)],
    )
    if stats.gap_steps is not None:
        yield histogram(
            "mell:migration_downtime_steps",
            "The same in steps; one without a move.",
            [({}, stats.gap_steps)],
        )


def _profile(view: FleetView) -> Iterator[Metric]:
    devices = {instance.device: _device(instance) for instance in view.instances}
    names = view.names
    yield gauge(
        "mell:link_bytes_per_second",
        "Pages carried between two device groups, as measured at the start.",
        [
            ({"source": names[source], "target": names[target]}, speed)
            for (source, target), speed in view.link_bytes_per_s.items()
            if math.isfinite(speed)
        ],
    )
    yield gauge(
        "mell:prefill_slack_tokens_per_second",
        "Prefill for moves beside a full batch that decodes, measured at the start.",
        [
            ({**devices[device], "model_name": model}, speed)
            for (device, model), speed in view.prefill_tokens_per_s.items()
            if math.isfinite(speed)
        ],
    )
