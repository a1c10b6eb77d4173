"""Serves one side of a comparison to `side_process`, which starts this as a process.

Reads one JSON object per line and answers each with one line:

    {"load": DIR, "threads": 2}   -> {"versions": {}} or {"missing": WHY}
    {"prompts": [[1, 2]], "new_tokens": 9, "attention": "sdpa"}
                          -> {"steps": [[0.5, [0]], ...], "tokens": [[...]]}

A step is when its tokens were there, from the start of the batch, and whose they are.
Needs nothing of ours, so it runs under any Python that has what the side needs.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

from benchmarks.engine.llama_side import LlamaSide
from benchmarks.engine.torch_side import TorchSide


class Side(Protocol):
    """A side holds one loaded model."""

    def versions(self) -> dict[str, str]:
        """Returns what this side runs."""

    def generate(
        self, prompts: list[list[int]], *, new_tokens: int, attention: str
    ) -> dict[str, Any]:
        """Runs one batch, greedily and without an end of sequence."""

    def close(self) -> None:
        """Leaves nothing behind."""


SIDES: dict[str, Callable[[str, int], Side]] = {
    "torch": TorchSide,
    "llama": LlamaSide,
}


def main(name: str) -> None:
    """Answers until the input ends; what a library prints goes to stderr."""
    with os.fdopen(os.dup(1), "w") as answers, contextlib.ExitStack() as stack:
        os.dup2(2, 1)
        side: Side | None = None
        for text in sys.stdin:
            request = json.loads(text)
            answer: dict[str, Any]
            if "load" in request:
                try:
                    side = SIDES[name](request["load"], request["threads"])
                    stack.callback(side.close)
                    answer = {"versions": side.versions()}
                except (ImportError, ValueError) as error:
                    answer = {"missing": str(error)}
            else:
                assert side is not None, "load comes first"
                answer = side.generate(
                    request["prompts"],
                    new_tokens=request["new_tokens"],
                    attention=request["attention"],
                )
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
