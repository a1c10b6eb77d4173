"""An instance runs a batch on its device group, one step ahead of the results.

`launch` starts the next step on the device, `land` brings in the results of the one
before, so that host and device work at the same time:

    launch k   plan k, dispatch k          land k-1   wait for k-1, its tokens and ends

A sampled token stays on the device as the next input; a sequence that turns out to
have ended has one surplus row in flight, whose result is dropped. A sequence with a
grammar waits for its own token and the mask of the next one, and nobody waits for it:

    land k-1   its token to the guide      `hear` forced tokens, mask      launch k+1

Single-threaded: one thread calls every method.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mell_jax.engine.frames import (
    EngineLoad,
    Finished,
    FinishReason,
    Handle,
    Logprobs,
    NewVersion,
    PromptDone,
    StepFrame,
    frame_of_tokens,
)
from mell_jax.engine.guided_rows import GuidedRows
from mell_jax.engine.guides import InstanceGuides
from mell_jax.engine.histogram import Histogram
from mell_jax.engine.new_weights import FIRST, Generation
from mell_jax.engine.prompts import PromptTable
from mell_jax.engine.slots import BoolArray, Int32Array, Request, SlotTable, row_setup
from mell_jax.engine.step_times import StepPhase, StepTimes
from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.fair_queue import Tenant
from mell_jax.scheduler.ids import Serial, Tokens
from mell_jax.scheduler.plan import Sequence, StepPlan
from mell_jax.worker.device import DeviceWorker, Pending, PromptTargets, StepCall
from mell_jax.worker.layout import Bucket, new_vector
from mell_jax.worker.sampling import NONE_ALLOWED, Want

NO_TOKENS = np.zeros(0, np.int32)
_NOT_FINITE = "the model's logits for this sequence are not finite"
_NONE_ALLOWED = (
    "allows no token here, beside the rest of what is asked for (allowed_token_ids, "
    "logit_bias, min_tokens)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """This keeps a dispatched step and what its slots stood for; these change hands."""

    plan: StepPlan
    pending: Pending
    handles: npt.NDArray[np.int64]  # [b]
    limits: Int32Array  # [b]
    stop_ids: Int32Array  # [b, MAX_STOP_IDS]
    scored: Int32Array  # tokens of the step whose log probabilities are wanted
    is_first: BoolArray  # [b] samples the first token after the prompt
    generation: Generation  # of the weights
    is_new: BoolArray  # [b] nobody was told yet that its tokens are of these
    has_grammar: BoolArray  # [b]


class Instance:
    """An instance runs sequences of one model on one device group.

    Args:
      worker: the hands; with its pool.
      batcher: the books; new.
      max_rows: sequences that run at once.
      guides: of requests with a grammar; None where there are none.
    """

    def __init__(
        self,
        worker: DeviceWorker,
        batcher: Batcher,
        *,
        max_rows: int,
        guides: InstanceGuides | None = None,
    ) -> None:
        self.worker = worker
        self.batcher = batcher
        self.sequences = batcher.sequences
        self.grants = batcher.grants
        self.ended: list[Serial] = []  # since the owner last cleared it
        self._generation = FIRST
        self._turns = 0  # of generations, and of their names
        self._slots = SlotTable(max_rows)
        self._prompts = PromptTable()
        self._requests: dict[Serial, Request] = {}
        self._guided = GuidedRows(
            guides or InstanceGuides(None, vocab_size=0),
            batcher=batcher,
            requests=self._requests,
        )
        self._finished: list[Finished] = []
        self._in_flight: InFlight | None = None
        self._landing: InFlight | None = None
        self.lands_first = False  # whoever drives it waits for what a step brings
        self._generated = self._preemptions = self._steps = 0

    # -- coming and going --------------------------------------------------------

    def start(self, request: Request, *, tokens: Tokens) -> None:
        """Queues a request; `tokens` are its prompt and what it has generated."""
        submit = request.submit
        prompt = len(submit.prompt)
        self._requests[request.serial] = request
        if len(tokens) == prompt:
            self._prompts.expect(request.serial, num_top=request.params.prompt_logprobs)
        self._guided.follow(request, tokens)
        self.batcher.add(self._sequence(request, tokens))

    def reserve(
        self, request: Request, *, tokens: Tokens, pages: int, is_mixed: bool = False
    ) -> int | None:
        """Takes a row and `pages` for a request that is to come from elsewhere.

        Returns how many positions are there already by its prefix; None without room.

        Args:
          request: that is to come.
          tokens: of it so far.
          pages: of the pool.
          is_mixed: weights of several generations have computed what it has.
        """
        cached = self.batcher.reservations.reserve(
            self._sequence(request, tokens, is_mixed=is_mixed), pages=pages
        )
        if cached is not None:
            self._requests[request.serial] = request
        return cached

    def begin(
        self, serial: Serial, *, computed: int, since: int, tail: Tokens, pages: int
    ) -> None:
        """Runs a reserved row; see `Reservations.begin`."""
        tokens = self.batcher.reservations.begin(
            serial, computed=computed, since=since, tail=tail, pages=pages
        )
        request, slot = self._requests[serial], self.sequences.slot_of(serial)
        prompt = len(request.submit.prompt)
        if len(tokens) == prompt:
            self._prompts.adopt(serial, num_top=request.params.prompt_logprobs)
        self._guided.follow(request, tokens)
        self._slots.occupy(slot, request)
        self.worker.set_up_row(
            row_setup(request, slot=slot, tokens=tokens, num_prompt=prompt)
        )

    def is_collecting_prompt(self, serial: Serial) -> bool:
        """Returns whether it has part of a prompt's log probabilities, which stay."""
        params = self._requests[serial].params
        return params.prompt_logprobs is not None and self._prompts.knows(serial)

    @property
    def requests(self) -> Mapping[Serial, Request]:
        """Returns the requests that are not over; do not change it."""
        return self._requests

    def knows(self, serial: Serial) -> bool:
        return serial in self._requests

    def finish(
        self,
        serial: Serial,
        *,
        reason: FinishReason,
        stop_token: int | None = None,
        message: str = "",
        field: str = "",
    ) -> None:
        """Frees a sequence's pages and reports its end in the next frame."""
        handle = self._requests[serial].handle
        self.drop(serial, trusted=reason is not FinishReason.ERROR)
        self.ended.append(serial)
        self._finished.append(
            Finished(
                handle=handle,
                reason=reason,
                stop_token=stop_token,
                message=message,
                field=field,
            )
        )

    def say(self, finished: Finished) -> None:
        """Adds to the next frame the end of something that never started here."""
        self._finished.append(finished)

    def drop(self, serial: Serial, *, trusted: bool = True) -> None:
        """Frees a sequence's pages and forgets it without a word."""
        del self._requests[serial]
        self._prompts.forget(serial)
        self._guided.forget(serial)
        self.batcher.cancel(serial, trusted=trusted)

    def turn(self, generation: Generation, *, restarts: bool = False) -> int:
        """Has the worker's new weights compute everything from the next step on.

        The step in flight is one of the old ones. What is here goes on with what it
        has; see `Batcher.turn`.

        Args:
          generation: of the new weights.
          restarts: has everything computed again from its tokens.

        Returns:
          How many are computed again.
        """
        self.rename(generation)
        self.batcher.turn(generation=generation.number)
        return self.batcher.restart_all() if restarts else 0

    def rename(self, generation: Generation) -> None:
        """Calls the weights something else from the next step on."""
        self._generation = generation
        self._turns += 1

    # -- the loop ----------------------------------------------------------------

    @property
    def in_flight(self) -> InFlight | None:
        """Returns the step that was launched last, while its results are not here."""
        return self._in_flight

    @property
    def has_work(self) -> bool:
        return bool(
            not self.batcher.is_empty
            or self._in_flight is not None
            or self._landing is not None
            or self._finished
        )

    def launch(self, times: StepTimes) -> bool:
        """Starts the next step, if there is one to do; `times` are told how long.

        It does not while the step in flight is to land first (`lands_first`), nor where
        all rows have grammars and more of them could share the next step in a moment.
        """
        is_guided = self._guided.is_alone(self._slots.has_grammar)
        lands_first = is_guided or self.lands_first or self.batcher.lands_first
        if self._in_flight is not None and lands_first:
            self._landing, self._in_flight = self._in_flight, None
            return False
        if is_guided and self._guided.is_worth_waiting():
            self._landing = None
            return False
        self._landing, self._in_flight = self._in_flight, self._launch(times)
        return self._in_flight is not None

    def rest(self) -> bool:
        """Launches nothing; returns whether something is still to land."""
        if self._landing is None:
            self._landing, self._in_flight = self._in_flight, None
        return self._landing is not None

    @property
    def is_computing(self) -> bool:
        """Returns whether a step's results are not here yet."""
        return self._in_flight is not None or self._landing is not None

    @property
    def has_ends(self) -> bool:
        """Returns whether `say_ends` has something to say."""
        return bool(self._finished)

    @property
    def landing(self) -> Pending | None:
        """Returns what is to land before the next step can be launched."""
        return None if self._landing is None else self._landing.pending

    def land(self, times: StepTimes) -> StepFrame | None:
        """Brings in the step before the one last launched; waits for its results.

        None when nothing is to be said; `times` are told how long it took.
        """
        landing, self._landing = self._landing, None
        if landing is None:
            return self.say_ends()
        times.begin()
        return self._land(landing, times) or self.say_ends()

    @property
    def has_news(self) -> bool:
        """Returns whether guides have said something that `hear` would take in."""
        return self._guided.has_news

    def hear(self) -> StepFrame | None:
        """Takes in what guides have found; None when nothing is to be said of it."""
        said: list[tuple[Handle, Tokens]] = []
        for heard in self._guided.hear():
            if len(heard.tokens):
                said.append((self._requests[heard.serial].handle, heard.tokens))
                self._generated += len(heard.tokens)
            if heard.end is not None:
                self.finish(
                    heard.serial,
                    reason=heard.end,
                    message=heard.message,
                    field="grammar" if heard.message else "",
                )
        if not said and not self._finished:
            return None
        done, self._finished = tuple(self._finished), []
        return frame_of_tokens(said, finished=done, version=self._generation.version)

    def say_ends(self) -> StepFrame | None:
        """Returns the ends that no step has said; None if there are none."""
        if not self._finished:
            return None
        done, self._finished = tuple(self._finished), []
        return frame_of_tokens((), finished=done)

    def load(
        self,
        *,
        compilations: int = 0,
        phases: Mapping[str, Histogram] | None = None,
    ) -> EngineLoad:
        """Returns how busy the instance is now."""
        counts = self.batcher.cache.counts
        return EngineLoad(
            running=self.batcher.num_running,
            waiting=self.batcher.num_waiting,
            waiting_tokens=self.batcher.waiting_tokens,
            used_pages=counts.used,
            cached_pages=counts.cached,
            free_pages=counts.free,
            generated_tokens=self._generated,
            prefix_hit_tokens=self._prompts.hit_tokens,
            prefix_query_tokens=self._prompts.query_tokens,
            preemptions=self._preemptions,
            steps=self._steps,
            compilations=compilations,
            phases=phases,
        )

    # -- launching ---------------------------------------------------------------

    def _launch(self, times: StepTimes) -> InFlight | None:
        times.begin()
        plan = self.batcher.plan()
        if plan is None:
            return None
        times.end(StepPhase.PLAN)
        self._preemptions += len(plan.preempted)
        self._steps += 1
        for entry in plan.admitted:
            request = self._requests[entry.serial]
            self._slots.occupy(entry.slot, request)
            self._prompts.admit(entry, generation=self._generation.number)
            self.worker.set_up_row(
                row_setup(
                    request,
                    slot=entry.slot,
                    tokens=entry.tokens,
                    num_prompt=entry.prompt,
                )
            )
        launched = self._dispatch(plan)
        times.end(StepPhase.LAUNCH)
        return launched

    def _dispatch(self, plan: StepPlan) -> InFlight:
        table, rows, slots = self._slots, self.batcher.rows, plan.slots
        count, tokens = len(slots), plan.num_tokens
        scored = self._scored(plan)
        bucket = self.worker.choose_bucket(
            tokens=tokens,
            rows=count,
            is_decode=plan.is_decode and not len(scored),
        )
        generated = plan.kv_lens - rows.prompt[slots]
        vector, inputs = new_vector(bucket)
        inputs.token_ids[:tokens] = plan.token_ids
        inputs.positions[:tokens] = plan.positions
        inputs.owners[:] = bucket.rows
        inputs.owners[:tokens] = plan.owners
        inputs.sources[:count] = slots
        inputs.kv_lens[:count] = plan.kv_lens
        inputs.cu_q_lens[1 : count + 1] = np.cumsum(plan.q_lens)
        inputs.cu_q_lens[count + 1 :] = tokens
        inputs.last[:count] = inputs.cu_q_lens[1 : count + 1] - 1
        inputs.page_table[:, :count] = plan.page_table
        sampling, wants = table.rows(plan, count=bucket.rows, generated=generated)
        mask = None
        if wants & Want.MASK:
            mask = self._guided.masks(plan, count=bucket.rows)
        is_new = plan.samples & (table.told[slots] != self._turns)
        table.told[slots[is_new]] = self._turns
        pending = self.worker.dispatch(
            StepCall(
                bucket=bucket,
                vector=vector,
                rows=sampling,
                wants=wants,
                mask=mask,
                prompt=self._prompt_targets(plan, bucket=bucket, at=scored)
                if len(scored)
                else None,
            )
        )
        return InFlight(
            plan=plan,
            pending=pending,
            handles=table.handles[slots],
            limits=table.limits[slots],
            stop_ids=table.stop_ids[slots],
            scored=scored,
            is_first=plan.samples & (generated == 0),
            generation=self._generation,
            is_new=is_new,
            has_grammar=table.has_grammar[slots],
        )

    def _scored(self, plan: StepPlan) -> Int32Array:
        """Returns which tokens of a step are in a prompt that is to be scored.

        A prompt's last token is not, unless it is said what is to follow.
        """
        if not self._slots.wants_prompt[plan.slots].any():
            return NO_TOKENS
        slots = plan.slots[plan.owners]
        known = [self._prompts.knows(Serial(int(one))) for one in plan.serials]
        last = self.batcher.rows.prompt[slots] - 1
        has_following = self._slots.following[slots] >= 0
        has_next = plan.positions < last + has_following
        is_wanted = self._slots.wants_prompt[slots] & np.array(known)[plan.owners]
        return np.flatnonzero(is_wanted & has_next).astype(np.int32)

    def _prompt_targets(
        self, plan: StepPlan, *, bucket: Bucket, at: Int32Array
    ) -> PromptTargets:
        targets = np.zeros(bucket.tokens, np.int32)
        slots = plan.slots[plan.owners[at]]
        rows, following = self.batcher.rows, plan.positions[at] + 1
        is_in = following < rows.prompt[slots]
        known = rows.tokens[slots, np.where(is_in, following, 0)]
        targets[at] = np.where(is_in, known, self._slots.following[slots])
        temperatures = np.ones(bucket.tokens, np.float32)
        temperatures[at] = self._slots.prompt_temperatures[slots]
        return PromptTargets(targets=targets, temperatures=temperatures, at=at)

    # -- landing -----------------------------------------------------------------

    def _land(self, landing: InFlight, times: StepTimes) -> StepFrame | None:
        tokens = landing.pending.tokens()[: len(landing.plan.slots)]
        times.end(StepPhase.WAIT)
        frame = self._record(landing, tokens)
        times.end(StepPhase.LAND)
        return frame

    def _record(self, landing: InFlight, tokens: Int32Array) -> StepFrame | None:
        plan = landing.plan
        live = self.batcher.commit(plan, tokens)
        self._generated += int(live.sum())
        self._fail_bad_rows(plan, tokens)
        prompts = self._land_prompts(landing, live)
        stopped = (tokens[:, None] == landing.stop_ids).any(axis=1)
        full = plan.kv_lens + 1 >= landing.limits
        for index in (live & (stopped | full)).nonzero()[0]:
            self.finish(
                Serial(int(plan.serials[index])),
                reason=FinishReason.STOP if stopped[index] else FinishReason.LENGTH,
                stop_token=int(tokens[index]) if stopped[index] else None,
            )
        for index in (live & landing.has_grammar).nonzero()[0]:
            serial = Serial(int(plan.serials[index]))
            if serial in self._requests:  # it has not ended with this token
                self._guided.advance(serial, int(tokens[index]))
        if not live.any() and not self._finished:
            return None
        finished, self._finished = tuple(self._finished), []
        return StepFrame(
            handles=landing.handles[live],
            tokens=tokens[live],
            logprobs=_logprobs_of(landing.pending, live),
            prompts=prompts,
            finished=finished,
            versions=_versions_of(landing, live),
        )

    def _fail_bad_rows(self, plan: StepPlan, tokens: Int32Array) -> None:
        for index in (plan.samples & (tokens < 0)).nonzero()[0]:
            serial = Serial(int(plan.serials[index]))
            if serial in self._requests:
                self._fail(serial, is_allowed=tokens[index] != NONE_ALLOWED)

    def _fail(self, serial: Serial, *, is_allowed: bool) -> None:
        """Ends a sequence whose logits are no numbers, or none of which is allowed."""
        message, field = _NOT_FINITE, ""
        if not is_allowed:
            has_grammar = self._requests[serial].params.grammar is not None
            field = "grammar" if has_grammar else "allowed_token_ids"
            message = f"{field} {_NONE_ALLOWED}"
        self.finish(serial, reason=FinishReason.ERROR, message=message, field=field)

    def _land_prompts(
        self, landing: InFlight, live: BoolArray
    ) -> tuple[PromptDone, ...]:
        plan = landing.plan
        if len(landing.scored):
            self._collect(landing)
        return tuple(
            self._prompts.finish(
                Serial(int(plan.serials[index])),
                handle=Handle(int(landing.handles[index])),
            )
            for index in (live & landing.is_first).nonzero()[0]
        )

    def _collect(self, landing: InFlight) -> None:
        """Hands each prompt what was scored of it."""
        owners = landing.plan.owners[landing.scored]
        scored = landing.pending.prompt_logprobs(landing.scored)
        for index in np.unique(owners):
            serial = Serial(int(landing.plan.serials[index]))
            self._prompts.collect(
                serial,
                scored.take(owners == index),
                generation=landing.generation.number,
            )

    def _sequence(
        self, request: Request, tokens: Tokens, *, is_mixed: bool = False
    ) -> Sequence:
        submit = request.submit
        return Sequence(
            serial=request.serial,
            tokens=tokens.astype(np.int32),
            prompt=len(submit.prompt),
            limit=request.limit,
            salt=submit.salt,
            is_mixed=is_mixed,
            reads_cache=submit.params.prompt_logprobs is None,
            tenant=Tenant(name=submit.tenant, weight=submit.weight),
        )


def _versions_of(landing: InFlight, live: BoolArray) -> tuple[NewVersion, ...]:
    """Returns what is to be told of the weights of a step's tokens, mostly nothing."""
    new = landing.handles[live & landing.is_new].tolist()
    if not new:
        return ()
    return (NewVersion(version=landing.generation.version, handles=tuple(new)),)


def _logprobs_of(pending: Pending, live: BoolArray) -> Logprobs | None:
    fetched = pending.logprobs()
    if fetched is None:
        return None
    rows = np.flatnonzero(live)
    return Logprobs(
        chosen=fetched.chosen[rows],
        top_ids=fetched.top_ids[rows],
        top=fetched.top[rows],
    )
