"""Times torch's attentions for one decode load in a process of their own."""

import json
import subprocess
from pathlib import Path

from benchmarks.kernels.loads import GROUP, HEAD, KV_HEADS, Load

SCRIPT = Path(__file__).with_name("torch_side.py")
LIMIT_S = 300.0  # compiling included
RIVALS = {  # what a report calls them, and what the script does
    "torch SDPA, contiguous": "sdpa",
    "FlexAttention, contiguous": "flex",
    "FlexAttention, pages of 128": "flex_paged",
    "transformers' paged SDPA": "transformers",
}


def torch_seconds(python: str, load: Load, *, method: str, repeats: int = 7) -> float:
    """Returns seconds per decode call.

    Args:
      python: an interpreter that has torch and sees the same GPU.
      method: a value of `RIVALS`.

    Raises:
      RuntimeError: that Python cannot do it; with its last line.
    """
    if not python:
        raise RuntimeError("left out: --torch_python is empty")
    sizes = {
        "method": method,
        "rows": load.rows,
        "context": load.context,
        "kv_heads": KV_HEADS,
        "group": GROUP,
        "head": HEAD,
        "repeats": repeats,
    }
    command = [python, str(SCRIPT), json.dumps(sizes)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"torch: {error}") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"torch: {last}")
    answer = json.loads(lines[-1])
    if "missing" in answer:
        raise RuntimeError(f"left out: {answer['missing']}")
    return float(answer["seconds"])
