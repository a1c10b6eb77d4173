"""An engine whose answers can be done in your head, for testing what is above it.

The next token is the sum of all tokens so far, modulo 31. So a prompt of [1] goes on
1 2 4 8 16 1 2 4 8 16 ..., [3] goes on 3 6 12 24 17 3 ..., and a prompt with sum 0 ends
at once, since 0 is the end of sequence. The letters tokenizer spells 1 as "a" and 26 as
"z": "a" goes on "abdhpabdhp...", "c" goes on "cflxqcflxq...".
"""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mell_jax.engine.frames import (
    Abort,
    EngineInfo,
    EngineLoad,
    EngineStopped,
    Finished,
    FinishReason,
    Handle,
    Logprobs,
    NewVersion,
    PromptDone,
    StepFrame,
    Submit,
)
from mell_jax.engine.params import MAX_TOP_LOGPROBS
from mell_jax.frontend import Sink

VOCAB = 31
INFO = EngineInfo(
    model_name="letters",
    model_type="llama",
    architecture="LlamaForCausalLM",
    vocab_size=VOCAB,
    eos_token_ids=(0,),
    bos_token_id=None,
    max_model_len=1000,
    max_rows=256,
    num_pages=100,
    page_tokens=16,
)
LETTERS = ["</s>", *"abcdefghijklmnopqrstuvwxyz .!?"]


def write_letters_tokenizer(directory: Path) -> Path:
    """A tokenizer.json with one token per letter, and a config beside it."""
    spec = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": 0,
                "content": "</s>",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(?m)."},
            "behavior": "Isolated",
            "invert": False,
        },
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {letter: i for i, letter in enumerate(LETTERS)},
            "unk_token": "?",
        },
    }
    (directory / "tokenizer.json").write_text(json.dumps(spec))
    (directory / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return directory


class FakeEngine:
    """Runs freely on a thread, or one step per `step()` when `is_manual`."""

    def __init__(self, *, info: EngineInfo = INFO, is_manual: bool = False) -> None:
        self.info = info
        self.infos = (info,)
        self.submits: list[Submit] = []
        self.aborts: list[Handle] = []
        self.num_steps = 0
        self.is_alive = True
        self.fail_with: dict[int, Finished] = {}  # by first prompt token
        self.is_manual = is_manual
        self.version = ""  # of its weights; told to nobody while it is empty
        self._told: dict[Handle, str] = {}
        self._changed = threading.Condition()
        self._inbox: list[Submit | Abort] = []
        self._live: dict[Handle, list[int]] = {}
        self._sink: Sink | None = None
        self._death: str | None = None
        self._pings = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self, sink: Sink) -> None:
        self._sink = sink
        if not self.is_manual:
            self._thread.start()

    def send(self, message: Submit | Abort) -> None:
        with self._changed:
            self._inbox.append(message)
            if isinstance(message, Submit):
                self.submits.append(message)
            else:
                self.aborts.extend(message.handles)
            self._changed.notify_all()

    @property
    def rounds(self) -> int:
        return self.num_steps

    def ping(self) -> None:
        with self._changed:
            self._pings += 1
            self._changed.notify_all()

    def stop(self) -> None:
        if self._sink is None:
            self.is_alive = False
            return
        self.die("")
        if not self.is_manual:
            self._thread.join()

    def die(self, message: str) -> None:
        with self._changed:
            self._death = message
            self._changed.notify_all()
        if self.is_manual:
            self._end()

    def load(self) -> EngineLoad:
        running = len(self._live)
        return EngineLoad(
            running=running,
            waiting=2,
            waiting_tokens=11,
            used_pages=30,
            cached_pages=20,
            free_pages=50,
            generated_tokens=1000,
            prefix_hit_tokens=30,
            prefix_query_tokens=120,
            preemptions=0,
            steps=self.num_steps,
            compilations=0,
        )

    @property
    def num_live(self) -> int:
        """Sequences that hold pages or will, counting unread messages."""
        with self._changed:
            live = set(self._live)
            for message in self._inbox:
                if isinstance(message, Submit):
                    live.add(message.handle)
                else:
                    live.difference_update(message.handles)
            return len(live)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Blocks until a condition that depends on messages and steps holds."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout=50), "waited 50 s"

    def step(self) -> StepFrame:
        """Reads all messages, gives every live sequence a token, emits the frame."""
        with self._changed:
            prompts, finished = self._read_messages()
            frame = self._make_frame(prompts, finished)
            self.num_steps += 1
            self._changed.notify_all()
        assert self._sink is not None
        self._sink(frame)
        return frame

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: (
                        self._death is not None
                        or self._inbox
                        or self._live
                        or self._pings
                    )
                )
                self._pings = 0
                if self._death is not None:
                    break
            self.step()
        self._end()

    def _end(self) -> None:
        self.is_alive = False
        assert self._sink is not None and self._death is not None
        self._sink(EngineStopped(message=self._death))

    def _read_messages(self) -> tuple[list[PromptDone], list[Finished]]:
        prompts, finished = [], []
        for message in self._inbox:
            if isinstance(message, Abort):
                for handle in message.handles:
                    if self._live.pop(handle, None) is not None:
                        finished.append(
                            Finished(handle=handle, reason=FinishReason.ABORT)
                        )
            elif failure := self.fail_with.get(int(message.prompt[0])):
                finished.append(failure)
            else:
                self._live[message.handle] = message.prompt.tolist()
                prompts.append(_prompt_done(message))
        self._inbox = []
        return prompts, finished

    def _make_frame(
        self, prompts: list[PromptDone], finished: list[Finished]
    ) -> StepFrame:
        submits = {submit.handle: submit for submit in self.submits}
        handles, tokens = [], []
        for handle, sequence in list(self._live.items()):
            submit = submits[handle]
            token = sum(sequence) % VOCAB
            sequence.append(token)
            handles.append(handle)
            tokens.append(token)
            num_generated = len(sequence) - submit.prompt.size
            if end := self._end_of(submit, token=token, num_generated=num_generated):
                del self._live[handle]
                finished.append(end)
        return StepFrame(
            handles=np.asarray(handles, dtype=np.int64),
            tokens=np.asarray(tokens, dtype=np.int32),
            logprobs=fake_logprobs(tokens),
            prompts=tuple(prompts),
            finished=tuple(finished),
            versions=self._news_of_versions(handles),
        )

    def _news_of_versions(self, handles: list[Handle]) -> tuple[NewVersion, ...]:
        new = [each for each in handles if self._told.get(each, "") != self.version]
        self._told |= dict.fromkeys(new, self.version)
        if not new:
            return ()
        return (NewVersion(version=self.version, handles=tuple(new)),)

    def _end_of(
        self, submit: Submit, *, token: int, num_generated: int
    ) -> Finished | None:
        params = submit.params
        eos = () if params.ignore_eos else self.info.eos_token_ids
        is_stop = token in (*params.stop_token_ids, *eos)
        if is_stop and num_generated > params.min_tokens:
            return Finished(
                handle=submit.handle, reason=FinishReason.STOP, stop_token=token
            )
        if num_generated == params.max_tokens:
            return Finished(handle=submit.handle, reason=FinishReason.LENGTH)
        return None


def fake_logprobs(tokens: list[int]) -> Logprobs:
    """Token t: -0.5, and the alternatives t, t + 1, ... with -0.5, -1.5, ..."""
    ranks = np.arange(MAX_TOP_LOGPROBS)
    chosen = np.full(len(tokens), -0.5, dtype=np.float32)
    column = np.asarray(tokens, dtype=np.int32).reshape(-1, 1)
    return Logprobs(
        chosen=chosen,
        top_ids=((column + ranks.reshape(1, -1)) % VOCAB).astype(np.int32),
        top=np.tile(-0.5 - ranks, (len(tokens), 1)).astype(np.float32),
    )


def _prompt_done(submit: Submit) -> PromptDone:
    asked = submit.params.prompt_logprobs is not None
    return PromptDone(
        handle=submit.handle,
        cached_tokens=submit.prompt.size // 16 * 16,
        logprobs=fake_logprobs(submit.prompt[1:].tolist()) if asked else None,
    )
