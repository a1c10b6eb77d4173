"""A host's frame is cut so that each front end gets the rows of its own requests."""

from mell_jax.engine.hosts import wires
from mell_jax.hosts.wire import HostFrame
from mell_jax.scheduler.ids import FRONT_BITS, FrontId
from mell_jax.serving.processes.split import part_of as frame_part


def part_of(told: wires.HostFrame, *, front: FrontId) -> HostFrame | None:
    """Returns the part of a frame that is for a front end; None if that is nothing."""
    part = frame_part(told.frame, number=front)
    if part is None:
        return None
    mine = told.frame.handles >> FRONT_BITS == front
    ends = tuple(
        end
        for finished, end in zip(told.frame.finished, told.ends, strict=True)
        if finished.handle >> FRONT_BITS == front
    )
    return HostFrame(
        frame=part, copies=told.copies[mine], starts=told.starts[mine], ends=ends
    )
