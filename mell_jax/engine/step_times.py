"""The time of a step on the engine's thread is counted here, by phase.

    plan -> launch      wait -> land      emit
    of step k           of step k - 1     of the frame

Costs about half a microsecond a phase. One thread writes; what it has frozen may be
read by any.
"""

import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import final

from mell_jax.engine.histogram import Histogram, HistogramRecorder

BOUNDS_S = tuple(
    digit * 10.0**power for power in range(-5, 1) for digit in (1.0, 2.0, 5.0)
)
_KEPT_S = 0.5


class StepPhase(Enum):
    """A phase is that of one instance; the last one is that of all together."""

    PLAN = "plan"  # what to compute
    LAUNCH = "launch"  # rows set up, the step handed to the device
    WAIT = "wait"  # for the device
    LAND = "land"  # tokens recorded, ends found
    EMIT = "emit"  # what front ends are told


@final
class StepTimes:
    """Step times count seconds by phase."""

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """Makes times that have counted nothing.

        Args:
          clock: seconds, never backwards.
        """
        self._clock = clock
        self._mark_s = clock()
        self._seconds = {phase: HistogramRecorder(BOUNDS_S) for phase in StepPhase}
        self._frozen: Mapping[str, Histogram] = {}
        self._frozen_s = self._mark_s - _KEPT_S

    def begin(self) -> None:
        """Begins a phase."""
        self._mark_s = self._clock()

    def end(self, phase: StepPhase) -> None:
        """Ends a phase and begins the next one."""
        now_s = self._clock()
        took_s, self._mark_s = now_s - self._mark_s, now_s
        self._seconds[phase].add(took_s)

    def frozen(self, *, anew: bool = True) -> Mapping[str, Histogram]:
        """Returns histograms by phase, made `anew` or not older than half a second."""
        if anew or not (self._mark_s - self._frozen_s < _KEPT_S):
            self._frozen_s = self._mark_s
            self._frozen = {
                phase.value: seconds.frozen()
                for phase, seconds in self._seconds.items()
            }
        return self._frozen
