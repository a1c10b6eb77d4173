"""One thread works for tenants in turns: a job of each, however many one of them has.

    lane "a"  [x x x x x x]      turns: a, b, a, b, a, a, ...
    lane "b"  [y y]

Who comes new waits for the job that runs and for one job of each other tenant at most.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, final

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    work: Callable[[], Any]
    done: Future[Any]

    def run(self) -> None:
        """Does the work, unless it was cancelled; its errors are its caller's."""
        if not self.done.set_running_or_notify_cancel():
            return
        try:
            result = self.work()
        except BaseException as error:  # the edge of a thread
            self.done.set_exception(error)
        else:
            self.done.set_result(result)


@final
class FairThread:
    """A fair thread starts with its first job; any thread may give it one.

    Args:
      name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._lanes: OrderedDict[str, deque[_Job]] = OrderedDict()

    def submit(self, work: Callable[[], Result], *, tenant: str) -> Future[Result]:
        """Leaves a job behind those of its tenant; one that is cancelled is skipped."""
        done = Future[Result]()
        with self._lock:
            lane = self._lanes.setdefault(tenant, deque())
            lane.append(_Job(work=work, done=done))
        self._pool.submit(self._run_next)
        return done

    def close(self) -> None:
        """Lets the thread end with what it does now; what waits is cancelled."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            waiting = [job for lane in self._lanes.values() for job in lane]
            self._lanes.clear()
        for job in waiting:
            job.done.cancel()

    def _run_next(self) -> None:
        if (job := self._take()) is not None:
            job.run()

    def _take(self) -> _Job | None:
        """Takes the first job of the tenant whose turn it is; None after `close`."""
        with self._lock:
            if not self._lanes:
                return None
            tenant, lane = next(iter(self._lanes.items()))
            job = lane.popleft()
            if lane:
                self._lanes.move_to_end(tenant)
            else:
                del self._lanes[tenant]
            return job
