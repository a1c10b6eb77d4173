"""Runs transformers' `generate`, in a process of its own; `side_main` calls it."""

import importlib
import time
from typing import Any, final


class Clock:
    """The criterion never stops and notes when each token is there."""

    def __init__(self, torch: Any) -> None:
        self.times_s: list[float] = []
        self._torch = torch
        self._start_s = time.perf_counter()

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        self.times_s.append(time.perf_counter() - self._start_s)
        return self._torch.zeros(input_ids.shape[0], dtype=self._torch.bool)


@final
class TorchSide:
    """The side holds a model loaded by transformers, in float32."""

    def __init__(self, directory: str, threads: int) -> None:
        self._torch = importlib.import_module("torch")
        self._transformers = importlib.import_module("transformers")
        self._torch.set_num_threads(threads)
        self._model = self._transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=self._torch.float32
        ).eval()

    def versions(self) -> dict[str, str]:
        """Returns those of torch and transformers."""
        return {
            "torch": str(self._torch.__version__),
            "transformers": str(self._transformers.__version__),
        }

    def close(self) -> None:
        """Does nothing: the model ends with the process."""

    def generate(
        self, prompts: list[list[int]], *, new_tokens: int, attention: str
    ) -> dict[str, Any]:
        """Runs a static batch; `attention` is "sdpa" or "eager"."""
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
        everyone = list(range(len(prompts)))
        return {
            "steps": [[time_s, everyone] for time_s in clock.times_s],
            "tokens": answers[:, ids.shape[1] :].tolist(),
        }
