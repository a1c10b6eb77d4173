"""A side for tests: it repeats the first token of each prompt, two steps a second."""

from pathlib import Path

from benchmarks.engine.side_process import SideKind

ECHO = """
import json, sys
for text in sys.stdin:
    request = json.loads(text)
    if "load" in request:
        answer = {"versions": {"echo": str(request["threads"])}}
    else:
        new = request["new_tokens"]
        rows = list(range(len(request["prompts"])))
        answer = {
            "steps": [[0.5 * (i + 1), rows] for i in range(new)],
            "tokens": [prompt[:1] * new for prompt in request["prompts"]],
        }
    print(json.dumps(answer), flush=True)
"""


def echo_kind(folder: Path, *, script: str = ECHO, name: str = "echo") -> SideKind:
    """A kind of side that runs `script`."""
    path = folder / "side.py"
    path.write_text(script)
    return SideKind(
        name=name,
        flag="--echo_python",
        needs="a voice",
        arguments=(str(path),),
        attentions=("plain", "flash"),
    )
