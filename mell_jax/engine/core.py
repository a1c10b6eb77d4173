"""The engine of one instance: takes submissions in, steps, emits frames.

Single-threaded: one thread calls every method. What a step is stands in `instance`.
"""

import numpy as np

from mell_jax.engine.admin import Answer, Command
from mell_jax.engine.frames import (
    Abort,
    EngineInfo,
    EngineLoad,
    Finished,
    FinishReason,
    Handle,
    StepFrame,
    Submit,
)
from mell_jax.engine.instance import Instance
from mell_jax.engine.lone_admin import carry_out
from mell_jax.engine.params import InvalidRequestError
from mell_jax.engine.slots import Request
from mell_jax.engine.step_times import StepTimes
from mell_jax.engine.validate import check_submit, find_info
from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.ids import Serial
from mell_jax.worker.device import DeviceWorker

UINT64 = 2**64


class Engine:
    """Runs one model on one instance."""

    def __init__(
        self, worker: DeviceWorker, batcher: Batcher, *, info: EngineInfo, seed: int = 0
    ) -> None:
        self.info = info
        self.instance = Instance(worker, batcher, max_rows=info.max_rows)
        self.times = StepTimes()
        self._handles: dict[Serial, Handle] = {}
        self._serials: dict[Handle, Serial] = {}
        self._next_serial = 0
        self._rng = np.random.default_rng(seed)

    def submit(self, submit: Submit) -> None:
        """Takes a request in; one that breaks a rule is answered in the next frame."""
        try:
            find_info(submit, infos=self.infos)
            check_submit(submit, info=self.info)
            if submit.handle in self._serials:
                raise InvalidRequestError("handle", f"{submit.handle} is in use")
        except InvalidRequestError as error:
            self.instance.say(refusal(submit, error))
            return
        serial, self._next_serial = Serial(self._next_serial), self._next_serial + 1
        request = resolve(submit, serial=serial, info=self.info, rng=self._rng)
        self._handles[serial] = submit.handle
        self._serials[submit.handle] = serial
        self.instance.start(request, tokens=submit.prompt)

    def abort(self, abort: Abort) -> None:
        """Frees the pages of these sequences now; unknown handles are ignored."""
        for handle in abort.handles:
            serial = self._serials.get(handle)
            if serial is not None:
                self.instance.finish(serial, reason=FinishReason.ABORT)
                self._forget_ended()

    def administer(self, command: Command) -> Answer:
        """Does what an operator asks; see `lone_admin.carry_out` for errors."""
        return carry_out(command, instance=self.instance, model=self.info.model_name)

    @property
    def infos(self) -> tuple[EngineInfo, ...]:
        """Of the one model that it serves."""
        return (self.info,)

    @property
    def has_work(self) -> bool:
        return self.instance.has_work

    @property
    def idle_wait_s(self) -> None:
        """Without work there is nothing to do but wait."""
        return None

    @property
    def is_resting(self) -> bool:
        """Whether no step is due."""
        return not self.has_work

    def step(self) -> StepFrame | None:
        """Launches a step, brings in the one before; None when nothing is to be said.

        Blocks until the results of the previous step are there.
        """
        self.instance.launch(self.times)
        frame = self.instance.land(self.times)
        self._forget_ended()
        return frame

    def probe(self) -> None:
        """Makes the idle device compute something, and waits for it.

        Raises:
          RuntimeError: the device has failed.
        """
        self.instance.worker.probe().tokens()

    def load(self, *, compilations: int = 0) -> EngineLoad:
        """How busy the engine is now."""
        phases = self.times.frozen(anew=not self.has_work)
        return self.instance.load(compilations=compilations, phases=phases)

    def _forget_ended(self) -> None:
        for serial in self.instance.ended:
            del self._serials[self._handles.pop(serial)]
        self.instance.ended.clear()


def refusal(submit: Submit, error: InvalidRequestError) -> Finished:
    """What is said to a submission that breaks a rule."""
    return Finished(
        handle=submit.handle,
        reason=FinishReason.ERROR,
        message=str(error),
        field=error.field,
    )


def resolve(
    submit: Submit, *, serial: Serial, info: EngineInfo, rng: np.random.Generator
) -> Request:
    """A checked submission with what it leaves open filled in."""
    params = submit.params
    seed = submit.seed if submit.seed is not None else params.seed
    if seed is None:
        seed = int(rng.integers(0, UINT64, dtype=np.uint64))
    eos = () if params.ignore_eos else info.eos_token_ids
    barred = {*params.stop_token_ids, *info.eos_token_ids}
    room = info.max_model_len - len(submit.prompt)
    max_tokens = room if params.max_tokens is None else params.max_tokens
    return Request(
        serial=serial,
        handle=submit.handle,
        submit=submit,
        seed=seed % UINT64,
        stop_ids=tuple(sorted({*params.stop_token_ids, *eos})),
        barred_ids=tuple(sorted(barred)),
        limit=len(submit.prompt) + max_tokens,
    )
