"""torch's attention over contiguous keys and values, timed in a process of its own."""

import json
import subprocess

from mell_jax.bench.kernel_timing import GROUP, HEAD, KV_HEADS, Load

_SCRIPT = """
import json, sys, torch
import torch.nn.functional as F
rows, context, kv_heads, group, head = map(int, sys.argv[1:])
def make(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)
q = make(rows, kv_heads * group, 1, head)
pairs = [(make(rows, kv_heads, context, head), make(rows, kv_heads, context, head))
         for _ in range(2)]
def call(i):
    return F.scaled_dot_product_attention(q, *pairs[i % 2], enable_gqa=True)
for i in range(10):
    call(i)
laps = []
for turn in range(7):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for i in range(8):
        call(i)
    end.record()
    torch.cuda.synchronize()
    laps.append(begin.elapsed_time(end) / 8e3)
print(json.dumps(sorted(laps)[3]))
"""


def torch_seconds(python: str, load: Load) -> float:
    """Seconds per decode call of `scaled_dot_product_attention`.

    Args:
      python: an interpreter that has torch and sees the same GPU.

    Raises:
      RuntimeError: there is none, or it fails; with its last line.
    """
    if not python:
        raise RuntimeError("left out: --torch_python is empty")
    sizes = (load.rows, load.context, KV_HEADS, GROUP, HEAD)
    command = [python, "-c", _SCRIPT, *map(str, sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(f"torch: {lines[-1]}")
    return float(json.loads(done.stdout))
