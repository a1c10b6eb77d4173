"""Frames without an engine."""

import numpy as np

from mell_jax.engine.frames import Handle, StepFrame


def frame_of(*handles: Handle) -> StepFrame:
    """A token for each."""
    return StepFrame(
        handles=np.array(handles, np.int64), tokens=np.zeros(len(handles), np.int32)
    )
