"""Runs another side of a comparison, in a process that idles meanwhile.

A process of its own, so that two thread pools never share one; it waits on a pipe while
our side is measured, and our side waits while it works. Which sides there are stands in
`TRANSFORMERS` and `LLAMA_CPP`; `side_main` is what runs there.
"""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from benchmarks.engine.batch import BatchRun, BatchStep
from mell_jax.bench.workload import Int32Array

ROOT = Path(__file__).parents[2]  # where `benchmarks` is found
MAIN = ("-m", "benchmarks.engine.side_main")


@dataclass(frozen=True, slots=True, kw_only=True)
class SideKind:
    """A kind of side is a program to compare with."""

    name: str
    flag: str  # that names its Python
    needs: str
    arguments: tuple[str, ...]  # of its Python
    attentions: tuple[str, ...]  # the kinds it has; the faster one is measured


TRANSFORMERS = SideKind(
    name="transformers",
    flag="--torch_python",
    needs="torch and transformers",
    arguments=(*MAIN, "torch"),
    attentions=("sdpa", "eager"),
)
LLAMA_CPP = SideKind(
    name="llama.cpp",
    flag="--llama_python",
    needs="xllamacpp and gguf",
    arguments=(*MAIN, "llama"),
    attentions=("plain", "flash"),
)


class SideMissingError(RuntimeError):
    """The Python lacks what the side needs, or the program does not know the model."""


@final
class SideProcess:
    """The process holds a model loaded by another program; a context manager.

    Args:
      kind: the program.
      python: an interpreter that has what the kind needs.
      directory: the model.
      threads: that the program may use.

    Raises:
      SideMissingError: the interpreter is missing or lacks something, or the program
        does not know the model.
    """

    def __init__(
        self, kind: SideKind, *, python: str, directory: Path, threads: int
    ) -> None:
        self.kind = kind
        # It runs in another directory, and a link to a Python is not followed: a
        # virtual environment would be left.
        found = shutil.which(python)
        if found is None:
            raise SideMissingError(f"{python} cannot be run: there is no such program")
        try:
            self._process = subprocess.Popen(
                [Path(found).absolute(), *kind.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
        except OSError as error:
            raise SideMissingError(f"{python} cannot be run: {error}") from error
        try:
            answer = self._ask({"load": str(directory.absolute()), "threads": threads})
            if "missing" in answer:
                raise SideMissingError(f"{python}: {answer['missing']}")
        except RuntimeError:
            self.close()
            raise
        self.versions: dict[str, str] = answer["versions"]

    def generate(
        self, prompts: Sequence[Int32Array], *, new_tokens: int, attention: str
    ) -> BatchRun:
        """Runs one batch, greedily and without an end of sequence."""
        answer = self._ask(
            {
                "prompts": [prompt.tolist() for prompt in prompts],
                "new_tokens": new_tokens,
                "attention": attention,
            }
        )
        return BatchRun(
            batch=len(prompts),
            prompt_tokens=len(prompts[0]),
            steps=tuple(
                BatchStep(time_s=time_s, rows=tuple(rows))
                for time_s, rows in answer["steps"]
            ),
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
                f"the process of {self.kind.name} ended with {self._process.wait()}; "
                "its traceback is above"
            )
        result: dict[str, Any] = json.loads(answer)
        return result


def start_side(
    kind: SideKind, *, python: str, directory: Path, threads: int
) -> tuple[SideProcess | None, str]:
    """Returns the side and a word about it; None and the reason without it.

    Args:
      python: empty leaves the side out.
    """
    hint = f"give {kind.flag}=PYTHON, one that has {kind.needs}"
    if not python:
        return None, f"{kind.name}: left out; {hint}"
    try:
        side = SideProcess(kind, python=python, directory=directory, threads=threads)
    except SideMissingError as error:
        return None, f"{kind.name}: left out, {error}; {hint}"
    versions = " ".join(f"{name} {is_}" for name, is_ in side.versions.items())
    return side, f"{kind.name}: {versions}, greedy, static batch"
