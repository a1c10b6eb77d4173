"""Writes `goldens/*.npz` with transformers.

    python -m tests.parity.make_goldens              # of every family
    python -m tests.parity.make_goldens qwen3 ...    # of these

Refuses a family whose greedy choice is ever close to a tie: give it another seed.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.parity.tiny_models import (
    DECODE_TOKENS,
    GOLDENS,
    GREEDY_TOKENS,
    PREFILL_TOKENS,
    PROMPT_TOKENS,
    Family,
    FloatArray,
    IntArray,
    families,
    prompt,
    write_hf,
)

MIN_GAP = 1.5e-3
"""Between the two best logits, at every greedy step."""


def load_reference(directory: Path) -> transformers.PreTrainedModel:
    """The model as transformers runs it, float32 and eager attention.

    Raises:
      SystemExit: transformers would name the tensors otherwise.
    """
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=torch.float32,
        attn_implementation="eager",
        output_loading_info=True,
    )
    wrong = {kind: names for kind, names in info.items() if names}
    if wrong:
        raise SystemExit(f"{directory}: tensors do not fit: {wrong}")
    return model.eval()


@torch.no_grad()
def greedy(
    model: transformers.PreTrainedModel, start: IntArray, *, steps: int
) -> tuple[IntArray, FloatArray]:
    """Ids [steps] and logits [len(start) + steps, V] of a cached greedy decode."""
    fed = torch.tensor(start.astype(np.int64))[None]
    cache, ids, logits = None, [], []
    for _ in range(steps + 1):
        out = model(fed, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logits.append(out.logits[0].numpy())
        fed = out.logits[:, -1:].argmax(-1)
        ids.append(int(fed))
    return np.array(ids[:steps], np.int32), np.concatenate(logits)


def min_gap(logits: FloatArray) -> float:
    """The smallest lead of a best logit in [T, V] over the second."""
    best = np.sort(logits, axis=-1)
    return float(np.min(best[:, -1] - best[:, -2]))


def make(family: Family) -> None:
    """Writes the golden of one family.

    Raises:
      SystemExit: the family's greedy choice is nearly a tie.
    """
    with tempfile.TemporaryDirectory() as directory:
        write_hf(Path(directory), family)
        model = load_reference(Path(directory))
    arrays: dict[str, IntArray | FloatArray] = {"prompt": prompt(PREFILL_TOKENS)}
    arrays["decoded"], logits = greedy(model, arrays["prompt"], steps=DECODE_TOKENS)
    arrays["prefill_logits"] = logits[:PREFILL_TOKENS]
    arrays["decode_logits"] = logits[PREFILL_TOKENS:]
    gaps, distinct = [min_gap(logits[PREFILL_TOKENS - 1 :])], []
    for length in PROMPT_TOKENS:
        ids, logits = greedy(model, prompt(length), steps=GREEDY_TOKENS)
        arrays[f"greedy_{length}"] = ids
        gaps.append(min_gap(logits[length - 1 :]))
        distinct.append(len(set(ids.tolist())))
    name = family.name
    print(f"{name}: smallest gap {min(gaps):.4f}, distinct tokens {distinct}")
    if not (min(gaps) > MIN_GAP):
        raise SystemExit(f"{name}: nearly a tie ({gaps}); choose another seed")
    np.savez_compressed(GOLDENS / f"{name}.npz", **arrays)


def main(names: Sequence[str]) -> None:
    """Makes the goldens of the families called `names`, or of all without names.

    Raises:
      SystemExit: there is no family of this name.
    """
    known = families()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(
            f"no family is called {', '.join(unknown)}: "
            f"`tiny_models.py` has {', '.join(known)}"
        )
    GOLDENS.mkdir(exist_ok=True)
    for name in names or known:
        make(known[name])


if __name__ == "__main__":
    main(sys.argv[1:])
