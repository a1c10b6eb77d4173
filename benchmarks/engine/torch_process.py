"""Runs the other side of a comparison, `torch_side`, in a process that idles meanwhile.

A process of its own, so that two thread pools never share one; it waits on a pipe while
our side is measured, and our side waits while it works.
"""

import contextlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from benchmarks.engine.batch import BatchRun, BatchStep
from mell_jax.bench.workload import Int32Array

SCRIPT = Path(__file__).with_name("torch_side.py")


class TorchMissingError(RuntimeError):
    """The Python that was given has no torch or no transformers."""


@final
class TorchProcess:
    """The process holds a model loaded by transformers; a context manager.

    Args:
      python: an interpreter that has torch and transformers.
      directory: the model.
      threads: that torch may use.
      script: what to run; for tests.

    Raises:
      TorchMissingError: the interpreter is missing, or lacks one of the two.
    """

    def __init__(
        self,
        *,
        python: str,
        directory: Path,
        threads: int,
        script: Path = SCRIPT,
    ) -> None:
        try:
            self._process = subprocess.Popen(
                [python, str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise TorchMissingError(f"{python} cannot be run: {error}") from error
        try:
            answer = self._ask({"load": str(directory), "threads": threads})
            if "missing" in answer:
                raise TorchMissingError(f"{python}: {answer['missing']}")
        except RuntimeError:
            self.close()
            raise
        self.versions: dict[str, str] = answer["versions"]

    def generate(
        self, prompts: Sequence[Int32Array], *, new_tokens: int, attention: str
    ) -> BatchRun:
        """Runs one static batch, greedily and without an end of sequence."""
        answer = self._ask(
            {
                "prompts": [prompt.tolist() for prompt in prompts],
                "new_tokens": new_tokens,
                "attention": attention,
            }
        )
        everyone = tuple(range(len(prompts)))
        return BatchRun(
            batch=len(prompts),
            prompt_tokens=len(prompts[0]),
            steps=tuple(BatchStep(time_s=t, rows=everyone) for t in answer["times_s"]),
            tokens=tuple(tuple(row) for row in answer["tokens"]),
        )

    def close(self) -> None:
        """Ends the process and waits for it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # it ended before us
                    pipe.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        with contextlib.suppress(BrokenPipeError):  # its last words come below
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise RuntimeError(
                f"the process of transformers ended with {self._process.wait()}; its "
                "traceback is above"
            )
        result: dict[str, Any] = json.loads(answer)
        return result
