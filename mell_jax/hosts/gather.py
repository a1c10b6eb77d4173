"""Frames of hosts come as rows, and rows that a relay takes become frames again.

A row is one token of one request with everything that its frame says of it, so that
what is taken later, or in part, keeps what belongs to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from mell_jax.engine.fleet.merge import merge_logprobs
from mell_jax.engine.frames import (
    Finished,
    Handle,
    Logprobs,
    NewVersion,
    PromptDone,
    StepFrame,
)
from mell_jax.hosts.wire import HostFrame
from mell_jax.scheduler.hosts.messages import Row
from mell_jax.scheduler.ids import CopyId, RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class RowData:
    """This is what a frame says of a row beside its token."""

    logprobs: Logprobs | None = None  # [1] of it
    prompt: PromptDone | None = None
    version: str | None = None  # of the weights, from this token on
    finished: Finished | None = None


NOTHING_MORE = RowData()
"""Of most rows: a token each, and no more to say."""


def told_rows(told: HostFrame) -> Iterator[Row]:
    """Yields the rows of a host's frame, in order, and its ends."""
    frame = told.frame
    prompts = {prompt.handle: prompt for prompt in frame.prompts}
    versions = {handle: new.version for new in frame.versions for handle in new.handles}
    has_more = bool(frame.logprobs is not None or prompts or versions)
    columns = (frame.handles, told.copies, told.starts, frame.tokens)
    columns_of = zip(*(column.tolist() for column in columns), strict=True)
    for row, (handle, copy_id, start, token) in enumerate(columns_of):
        data = NOTHING_MORE
        if has_more:
            data = RowData(
                logprobs=_logprobs_of(frame, row),
                prompt=prompts.pop(handle, None),
                version=versions.pop(handle, None),
            )
        yield Row(
            request=RequestId(handle),
            copy_id=CopyId(copy_id),
            start=start,
            tokens=(token,),
            data=data,
        )
    for finished, (copy_id, count) in zip(frame.finished, told.ends, strict=True):
        yield Row(
            request=RequestId(finished.handle),
            copy_id=copy_id,
            start=count,
            tokens=(),
            is_end=True,
            data=RowData(finished=finished),
        )


def _logprobs_of(frame: StepFrame, row: int) -> Logprobs | None:
    found = frame.logprobs
    if found is None:
        return None
    part = slice(row, row + 1)
    return Logprobs(
        chosen=found.chosen[part], top_ids=found.top_ids[part], top=found.top[part]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """A row that was taken, for the client that calls it `handle`."""

    handle: Handle
    token: int
    data: RowData


@final
class Gathered:
    """This gathers what was taken since the last frame, by the handles of clients."""

    def __init__(self) -> None:
        self._rows: list[_Taken] = []
        self._finished: list[Finished] = []
        self._told: set[Handle] = set()  # of the prompt
        self._versions: dict[Handle, str] = {}

    def add(self, row: Row, *, handle: Handle) -> Finished | None:
        """Adds a row; returns the end that it brings, if it does."""
        data = row.data
        assert isinstance(data, RowData), f"{row} has no data"
        self._rows += [
            _Taken(handle=handle, token=token, data=data) for token in row.tokens
        ]
        return replace(data.finished, handle=handle) if data.finished else None

    def end(self, finished: Finished) -> None:
        """Adds an end."""
        self._finished.append(finished)

    def take(self) -> StepFrame | None:
        """Returns a frame with everything since the last one; None if there is none."""
        rows, self._rows = self._rows, []
        finished, self._finished = tuple(self._finished), []
        if not rows and not finished:
            return None
        frame = StepFrame(
            handles=np.array([row.handle for row in rows], np.int64),
            tokens=np.array([row.token for row in rows], np.int32),
            logprobs=merge_logprobs([(row.data.logprobs, 1) for row in rows]),
            prompts=tuple(self._new_prompts(rows)),
            versions=tuple(self._new_versions(rows)),
            finished=finished,
        )
        for end in finished:
            self._told.discard(end.handle)
            self._versions.pop(end.handle, None)
        return frame

    def _new_prompts(self, rows: list[_Taken]) -> Iterator[PromptDone]:
        """Yields what is told of prompts, once for each."""
        for row in rows:
            prompt = row.data.prompt
            if prompt is not None and row.handle not in self._told:
                self._told.add(row.handle)
                yield replace(prompt, handle=row.handle)

    def _new_versions(self, rows: list[_Taken]) -> Iterator[NewVersion]:
        for row in rows:
            version = row.data.version
            if version is not None and self._versions.get(row.handle) != version:
                self._versions[row.handle] = version
                yield NewVersion(version=version, handles=(row.handle,))
