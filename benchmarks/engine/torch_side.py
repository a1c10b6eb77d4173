"""Runs transformers' `generate` in a process of its own; `torch_process` starts it.

Reads one JSON object per line and answers each with one line:

    {"load": DIR, "threads": 2}                                      -> {"versions": {}}
    {"prompts": [[1, 2]], "new_tokens": 9, "attention": "sdpa"}
                                     -> {"times_s": [...], "tokens": [[...]]}

`times_s[i]` is when every sequence had its token i, from the start of `generate`. Needs
torch and transformers and nothing of ours, so it runs under any Python that has them.
"""

import importlib
import json
import sys
import time
from typing import Any


class Clock:
    """The criterion never stops and notes when each token is there."""

    def __init__(self, torch: Any) -> None:
        self.times_s: list[float] = []
        self._torch = torch
        self._start_s = time.perf_counter()

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        self.times_s.append(time.perf_counter() - self._start_s)
        return self._torch.zeros(input_ids.shape[0], dtype=self._torch.bool)


class Side:
    """A side holds one loaded model."""

    def __init__(self, directory: str, *, threads: int) -> None:
        self._torch = importlib.import_module("torch")
        self._transformers = importlib.import_module("transformers")
        self._torch.set_num_threads(threads)
        self._model = self._transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=self._torch.float32
        ).eval()

    def versions(self) -> dict[str, str]:
        return {
            "torch": str(self._torch.__version__),
            "transformers": str(self._transformers.__version__),
        }

    def generate(
        self, prompts: list[list[int]], *, new_tokens: int, attention: str
    ) -> dict[str, Any]:
        torch = self._torch
        self._model.set_attn_implementation(attention)
        ids = torch.tensor(prompts)
        clock = Clock(torch)
        with torch.inference_mode():
            answers = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=self._transformers.StoppingCriteriaList([clock]),
            )
        new = answers[:, ids.shape[1] :]
        return {"times_s": clock.times_s, "tokens": new.tolist()}


def main() -> None:
    side: Side | None = None
    for text in sys.stdin:
        request = json.loads(text)
        if "load" in request:
            try:
                side = Side(request["load"], threads=request["threads"])
            except ImportError as error:
                print(json.dumps({"missing": str(error)}), flush=True)
                return
            answer: dict[str, Any] = {"versions": side.versions()}
        else:
            assert side is not None, "load comes first"
            answer = side.generate(
                request["prompts"],
                new_tokens=request["new_tokens"],
                attention=request["attention"],
            )
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
