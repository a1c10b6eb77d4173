"""Prompts are followed here until the first token, which tells of hits and logprobs."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mell_jax.engine.frames import Handle, Logprobs, PromptDone
from mell_jax.scheduler.ids import Serial
from mell_jax.scheduler.plan import Admitted
from mell_jax.worker.device import FetchedLogprobs


@dataclass(slots=True)
class _Prompt:
    """This keeps the progress of one prompt until its first token."""

    num_top: int | None  # log probabilities per token; None: not asked for
    cached: int = 0  # tokens found in the prefix cache
    since_s: float | None = None  # when it was first admitted; None: not here
    generation: int = 0  # of the weights when it was last admitted
    parts: list[Logprobs] = field(default_factory=list)


class PromptTable:
    """The table holds sequences without a token yet; `clock` gives seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._prompts: dict[Serial, _Prompt] = {}
        self.hit_tokens = 0
        self.query_tokens = 0

    def expect(self, serial: Serial, *, num_top: int | None) -> None:
        """Takes a new sequence; `num_top` None when no log probabilities are wanted."""
        self._prompts[serial] = _Prompt(num_top=num_top)

    def adopt(self, serial: Serial, *, num_top: int | None) -> None:
        """Takes a sequence that was computed elsewhere, before its first token."""
        self._prompts[serial] = _Prompt(num_top=num_top)

    def knows(self, serial: Serial) -> bool:
        return serial in self._prompts

    def admit(self, entry: Admitted, *, generation: int = 0) -> None:
        """Notes an admission; a preempted prompt starts again, but for its time.

        Args:
          entry: of the step.
          generation: of the weights.
        """
        self.hit_tokens += entry.cached
        self.query_tokens += len(entry.tokens)
        if before := self._prompts.get(entry.serial):
            since_s = self._clock() if before.since_s is None else before.since_s
            self._prompts[entry.serial] = _Prompt(
                num_top=before.num_top,
                cached=entry.cached,
                since_s=since_s,
                generation=generation,
            )

    def collect(
        self, serial: Serial, fetched: FetchedLogprobs, *, generation: int = 0
    ) -> None:
        """Keeps log probabilities of a part of a prompt, as many as asked for.

        Those of weights before its latest admission do not count: it is computed again.
        """
        prompt = self._prompts.get(serial)
        is_late = prompt is not None and generation < prompt.generation
        if prompt is not None and prompt.num_top is not None and not is_late:
            prompt.parts.append(
                Logprobs(
                    chosen=fetched.chosen,
                    top_ids=fetched.top_ids[:, : prompt.num_top],
                    top=fetched.top[:, : prompt.num_top],
                )
            )

    def finish(self, serial: Serial, *, handle: Handle) -> PromptDone:
        """Takes a prompt out, at its first token."""
        prompt = self._prompts.pop(serial)
        since_s = prompt.since_s
        return PromptDone(
            handle=handle,
            cached_tokens=prompt.cached,
            logprobs=_logprobs_of(prompt),
            prefill_s=None if since_s is None else self._clock() - since_s,
        )

    def forget(self, serial: Serial) -> None:
        self._prompts.pop(serial, None)


def _logprobs_of(prompt: _Prompt) -> Logprobs | None:
    """Joins what was scored: all tokens but the prompt's first.

    None when nobody asked; a prompt of one token has no row, which is not the same.
    """
    if prompt.num_top is None:
        return None
    empty = Logprobs(
        chosen=np.zeros(0, np.float32),
        top_ids=np.zeros((0, prompt.num_top), np.int32),
        top=np.zeros((0, prompt.num_top), np.float32),
    )
    parts = [empty, *prompt.parts]
    return Logprobs(
        chosen=np.concatenate([part.chosen for part in parts]),
        top_ids=np.concatenate([part.top_ids for part in parts]),
        top=np.concatenate([part.top for part in parts]),
    )
