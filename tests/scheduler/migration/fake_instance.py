"""An engine instance without a model: carries out the effects of its protocol machine.

Rows compute through their pages; a step that reads a wrong page is a violation. A row
that is told to stop has one more step in flight. Tokens are sent after every step, and
again on a tick until they are acknowledged.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

from mell_jax.scheduler.ids import CopyId, DeviceGroupId, RequestId
from mell_jax.scheduler.migration import effects, events, messages
from mell_jax.scheduler.migration.endpoint import Endpoint
from mell_jax.scheduler.transfer import Mode
from tests.scheduler.migration.jobs import SIZE, Content, Job, ViolationError
from tests.scheduler.migration.pool import Pool

CHUNK = 4  # most tokens that a row computes in a step
POISON = -1  # what a fenced device samples


@dataclass(slots=True, eq=False)
class Holding:
    """What one copy has on the device."""

    job: Job
    copy_id: CopyId
    pages: list[int] = field(default_factory=list)
    computed: int = 0  # positions in the pages
    known: int = 0  # tokens; of a row
    acknowledged: int = 0  # tokens that the stream has
    is_row: bool = False  # else it is a reservation
    is_stopped: bool = False  # out of the batch
    is_stopping: bool = False  # with a step in flight
    stop_since: int = 0
    is_ended: bool = False
    prefill_until: int = 0  # of a reservation; 0: nothing to prefill
    arrived: list[Content] | None = None  # pages that are being written
    arrived_end: int = 0

    @property
    def decodes(self) -> bool:
        return self.is_row and not self.is_stopped and not self.is_ended


@dataclass(frozen=True, slots=True)
class Frame:
    """Tokens of some rows: (request, copy id, index of the first, tokens)."""

    rows: list[tuple[RequestId, CopyId, int, list[int]]]
    source: DeviceGroupId
    is_again: bool


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """How many tokens the streams have: (copy id, count)."""

    counts: list[tuple[CopyId, int]]


Packet = messages.Message | Frame | Acknowledged
Payload = list[Content] | None


class World(Protocol):
    """What an instance needs of the simulation."""

    jobs: dict[RequestId, Job]

    def send(
        self, to: DeviceGroupId, packet: Packet, payload: Payload = None
    ) -> None: ...

    def may_grow(self, holding: Holding, pages: int) -> bool: ...


class FakeInstance:
    """One device: pool, rows, and the machine under test."""

    def __init__(
        self,
        world: World,
        machine: Endpoint,
        *,
        num_pages: int,
        preempts: bool,
        writes_late: bool,
    ) -> None:
        self.machine = machine
        self.device = machine.device
        self.pool = Pool(num_pages)
        self.held: dict[CopyId, Holding] = {}
        self.decoding: list[Holding] = []  # as of the last check
        self.is_fenced = False
        self.preemptions = 0
        self._world = world
        self._preempts = preempts
        self._writes_late = writes_late
        self._watched: set[CopyId] = set()
        self._payload: list[Content] = []
        self._has_changed = True
        self._carry: dict[type, Callable[..., None]] = {
            effects.Send: self._send,
            effects.TakePages: self._take_pages,
            effects.WriteChunk: self._write_chunk,
            effects.WatchRow: self._watch,
            effects.StopRow: self._stop_row,
            effects.ResumeRow: self._resume_row,
            effects.StartRow: self._start_row,
            effects.Free: self._free,
        }

    def deliver(self, packet: Packet, payload: Payload) -> None:
        self._has_changed = True
        if isinstance(packet, Acknowledged):
            for copy_id, count in packet.counts:
                row = self.held.get(copy_id)
                if row is not None:
                    row.acknowledged = max(row.acknowledged, count)
            return
        if payload is not None:
            self._payload = payload
        self.tell(cast(messages.ToEndpoint, packet))

    def tell(self, event: messages.ToEndpoint | events.EndpointEvent) -> None:
        for effect in self.machine.step(event):
            self._carry[type(effect)](effect)

    def tick(self) -> None:
        self._has_changed = True
        self.tell(events.Resend())
        rows = [
            self._tokens(row, row.acknowledged)
            for row in self.held.values()
            if row.is_row and row.acknowledged < row.known - row.job.prompt
        ]
        self._send_frame(rows, is_again=True)

    def step(self) -> None:
        """One batch: every row computes a chunk, or a token."""
        self._has_changed = True
        frame = []
        for row in list(self.held.values()):
            if self.held.get(row.copy_id) is not row:
                continue
            if row.prefill_until:
                self._prefill_reservation(row)
            elif row.arrived is not None:
                self._write_arrived(row)
            elif row.decodes and self._compute(row):
                index = row.known - row.job.prompt - 1
                frame.append(self._tokens(row, index))
            if row.is_stopping and row.decodes:
                self._stopped(row)
        self._send_frame(frame, is_again=False)
        for copy_id in list(self._watched):
            if self.machine.is_moving(copy_id):
                self._tell_computed(self.held[copy_id])
            else:
                self._watched.discard(copy_id)

    def check(self) -> None:
        """What must hold after every event; nothing to do if none was for this one."""
        if not self._has_changed:
            return
        self._has_changed = False
        self.decoding = [row for row in self.held.values() if row.decodes]
        self.pool.check(sum(len(holding.pages) for holding in self.held.values()))
        if self.machine.copies != list(self.held):
            raise ViolationError(f"{self.machine.copies} held as {list(self.held)}")

    # Steps.

    def _compute(self, row: Holding) -> bool:
        """Computes what is left of a row's tokens; whether it sampled a token."""
        until = min(row.known, row.computed + CHUNK)
        missing = -(-until // SIZE) - len(row.pages)
        if missing > 0 and not self._grow(row, missing):
            return False
        self._fill(row, until)
        if until < row.known:
            return False
        self._check_content(row)
        for number in range(row.job.shared // SIZE):
            if (number + 1) * SIZE <= row.computed:
                self.pool.publish(row.pages[number])
        row.known += 1
        if row.known == row.job.prompt + row.job.output:
            row.is_ended = True
            self.tell(events.RowLost(request=row.job.request, copy_id=row.copy_id))
        return True

    def _fill(self, row: Holding, until: int) -> None:
        content = self.pool.content
        while row.computed < until:
            number = row.computed // SIZE
            page = row.pages[number]
            count = row.computed % SIZE
            if count and content[page] != row.job.content(number, count):
                raise ViolationError(f"{row} continues {content[page]}")
            count = min(SIZE, count + until - row.computed)
            self.pool.write(page, row.job.content(number, count))
            row.computed = number * SIZE + count

    def _check_content(self, row: Holding) -> None:
        content, job = self.pool.content, row.job
        last = (row.computed - 1) // SIZE
        for number in range(last + 1):
            count = SIZE if number < last else row.computed - last * SIZE
            if content[row.pages[number]] != job.content(number, count):
                raise ViolationError(
                    f"{job.request} reads {content[row.pages[number]]} as page {number}"
                )

    def _grow(self, row: Holding, missing: int) -> bool:
        if not self._world.may_grow(row, len(row.pages) + missing):
            return False
        pages = self.pool.take(missing)
        if pages is None:
            if self._preempts:
                self._preempt()
            return False
        row.pages += pages
        return True

    def _preempt(self) -> None:
        """The newest row loses its pages, also one that is being moved."""
        rows = [r for r in self.held.values() if r.is_row and r.pages]
        rows = [r for r in rows if not r.is_ended]
        if rows:
            self.lose_pages(rows[-1])

    def lose_pages(self, row: Holding) -> None:
        self.preemptions += 1
        self.pool.drop(row.pages)
        row.pages, row.computed = [], 0
        self.tell(events.RowLost(request=row.job.request, copy_id=row.copy_id))
        if row.is_stopping:
            row.is_stopping, row.is_stopped = False, True

    def _stopped(self, row: Holding) -> None:
        row.is_stopping, row.is_stopped = False, True
        since = row.stop_since - row.job.prompt
        tail = self._tokens(row, since)[3]
        self.tell(
            events.RowStopped(
                request=row.job.request,
                copy_id=row.copy_id,
                computed=row.computed,
                tail=tuple(tail),
            )
        )

    def _write_arrived(self, copy: Holding) -> None:
        assert copy.arrived is not None
        for number, content in enumerate(copy.arrived, copy.computed // SIZE):
            self.pool.write(copy.pages[number], content)
        copy.arrived, copy.computed = None, copy.arrived_end
        self._tell_written(copy, copy.computed)

    def _prefill_reservation(self, copy: Holding) -> None:
        until = min(copy.prefill_until, copy.computed + CHUNK)
        self._fill(copy, until)
        if until == copy.prefill_until:
            copy.prefill_until = 0
            self._tell_written(copy, until)

    # Sending.

    def _tokens(
        self, row: Holding, start: int
    ) -> tuple[RequestId, CopyId, int, list[int]]:
        job = row.job
        tokens = [job.token(index) for index in range(start, row.known - job.prompt)]
        if self.is_fenced:
            tokens = [POISON] * len(tokens)
        return job.request, row.copy_id, start, tokens

    def _send_frame(
        self, rows: list[tuple[RequestId, CopyId, int, list[int]]], *, is_again: bool
    ) -> None:
        if rows:
            frame = Frame(rows, self.device, is_again)
            self._world.send(messages.CONTROLLER, frame)

    def _tell_computed(self, row: Holding) -> None:
        self.tell(
            events.Computed(
                request=row.job.request, copy_id=row.copy_id, computed=row.computed
            )
        )

    def _tell_written(self, copy: Holding, end: int) -> None:
        self.tell(
            events.Written(request=copy.job.request, copy_id=copy.copy_id, end=end)
        )

    # Effects.

    def _send(self, effect: effects.Send) -> None:
        message = effect.message
        payload = None
        if isinstance(message, messages.Chunk) and message.mode is Mode.KV:
            row = self.held[message.from_copy_id]
            pages = row.pages[message.first // SIZE : -(-message.end // SIZE)]
            payload = [self.pool.content[page] for page in pages]
            if self.is_fenced:
                payload = [("garbage", 0, 0)] * len(pages)
        self._world.send(effect.to, message, payload)

    def _take_pages(self, effect: effects.TakePages) -> None:
        job = self._world.jobs[effect.request]
        holding = self.held[effect.copy_id] = Holding(job, effect.copy_id)
        holding.pages = self.pool.share(job, known=effect.known)
        holding.computed = len(holding.pages) * SIZE
        more = self.pool.take(max(0, effect.pages - len(holding.pages)))
        if more is None:
            self.tell(events.Failed(request=effect.request, copy_id=effect.copy_id))
            return
        holding.pages += more
        self.tell(
            events.Took(
                request=effect.request, copy_id=effect.copy_id, cached=holding.computed
            )
        )

    def _write_chunk(self, effect: effects.WriteChunk) -> None:
        copy = self.held[effect.copy_id]
        if copy.computed != effect.first:
            raise ViolationError(f"{effect} into a copy with {copy.computed}")
        missing = -(-effect.end // SIZE) - len(copy.pages)
        more = self.pool.take(max(0, missing))
        if more is None:
            self.tell(events.Failed(request=effect.request, copy_id=effect.copy_id))
            return
        copy.pages += more
        if effect.mode is Mode.TOKENS and effect.end > effect.first:
            copy.prefill_until = effect.end
            return
        copy.arrived = self._payload if effect.end > effect.first else []
        copy.arrived_end = effect.end
        if not self._writes_late:
            self._write_arrived(copy)

    def _watch(self, effect: effects.WatchRow) -> None:
        row = self.held[effect.copy_id]
        if row.is_ended:
            self.tell(events.RowLost(request=effect.request, copy_id=effect.copy_id))
            return
        self._watched.add(effect.copy_id)
        self._tell_computed(row)

    def _stop_row(self, effect: effects.StopRow) -> None:
        row = self.held[effect.copy_id]
        row.is_stopping = True
        row.stop_since = effect.since

    def _resume_row(self, effect: effects.ResumeRow) -> None:
        row = self.held[effect.copy_id]
        row.is_stopping = row.is_stopped = False

    def _start_row(self, effect: effects.StartRow) -> None:
        job = self._world.jobs[effect.request]
        row = self.held.get(effect.copy_id)
        known = effect.since + len(effect.tail)
        if row is None:
            row = self.held[effect.copy_id] = Holding(job, effect.copy_id)
            row.pages = self.pool.share(job, known=known)
            row.computed = len(row.pages) * SIZE
        elif row.computed != effect.computed:
            raise ViolationError(f"{effect} of a copy with {row.computed}")
        row.is_row = True
        row.known = known
        row.acknowledged = known - job.prompt

    def _free(self, effect: effects.Free) -> None:
        self.pool.drop(self.held.pop(effect.copy_id).pages)
