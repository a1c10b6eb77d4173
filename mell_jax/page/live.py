"""A running fleet becomes moments, from what its engine shows of itself."""

from mell_jax.engine.fleet_view import FleetView, InstanceView, MoveOutcome
from mell_jax.engine.frames import EngineLoad
from mell_jax.engine.stream_view import GapsView, RequestsView, StreamView
from mell_jax.page.moment import Dots, Gaps, Lane, Moment, Rival, Tile, Totals
from mell_jax.scheduler.ids import RequestId, front_of

_DIGITS = 4  # tenths of a millisecond
_NUMBER_BITS = 30  # of a request's number among those of its front end; 22 are that's


def moment_of(load: EngineLoad) -> Moment | None:
    """Returns what the page shows of an engine; None where nobody looked at it."""
    view = load.fleet
    if view is None:
        return None
    return Moment(
        number=view.number,
        at=round(view.at_s, _DIGITS),
        in_use=view.devices_in_use,
        bound=view.lower_bound,
        waiting=sum(model.waiting for model in view.models),
        tiles=tuple(_tile(instance) for instance in view.instances),
        dots=_dots(view.requests),
        lanes=tuple(_lane(stream) for stream in view.streams),
        gaps=_gaps(view.gaps),
        rivals=_rivals(view),
        totals=_totals(view, tokens=load.generated_tokens),
        age=None if view.controller_age_s is None else round(view.controller_age_s, 1),
    )


def _tile(instance: InstanceView) -> Tile:
    return Tile(
        device=instance.device,
        name=instance.name if instance.host else "",
        state=instance.state.value,
        model=instance.model,
        capacity=instance.capacity_pages,
        used=instance.used_pages,
        reserved=instance.reserved_pages,
        cached=min(instance.cached_pages, instance.free_pages),
        rows=instance.running,
        paused=instance.paused,
    )


def _number(request: int) -> int:
    """Returns a number that JavaScript can hold: it has 53 bits."""
    own = request & ((1 << _NUMBER_BITS) - 1)
    return (front_of(RequestId(request)) << _NUMBER_BITS) + own


def _dots(requests: RequestsView) -> Dots:
    return Dots(
        numbers=tuple(map(_number, requests.numbers)),
        devices=requests.devices,
        targets=requests.targets,
        pages=requests.pages,
        tokens=requests.tokens,
        left_out=requests.left_out,
    )


def _lane(stream: StreamView) -> Lane:
    return Lane(
        request=_number(stream.request),
        device=stream.device,
        first=stream.first,
        ticks=tuple(round(at_s, _DIGITS) for at_s in stream.ticks_s),
        moves=tuple(
            (round(mark.at_s, _DIGITS), mark.source, mark.target)
            for mark in stream.moves
        ),
        is_over=stream.is_over,
    )


def _gaps(gaps: GapsView) -> Gaps:
    return Gaps(
        bounds=gaps.moved.bounds,
        moved=gaps.moved.counts,
        after=gaps.after.counts,
        unmoved=gaps.unmoved.counts,
    )


def _rivals(view: FleetView) -> tuple[Rival, ...]:
    return tuple(
        Rival(
            policy=shadow.policy,
            devices=shadow.devices,
            device_s=round(shadow.device_s, 1),
            cost_s=round(shadow.cost_s, _DIGITS),
            is_over=shadow.is_over,
        )
        for shadow in view.shadows
    )


def _totals(view: FleetView, *, tokens: int) -> Totals:
    stats = view.stats
    return Totals(
        tokens=tokens,
        moves=stats.count(MoveOutcome.COMMITTED),
        called_off=stats.count(MoveOutcome.ABORTED),
        bytes=stats.sent_bytes,
        broken=stats.broken,
        device_s=round(view.device_s, 1),
    )
