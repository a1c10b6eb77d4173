"""Runs llama.cpp's server without its HTTP, in a process of its own.

`side_main` calls it. The model becomes a GGUF file in float32, keys and values are in
float16 as llama.cpp has them by default. All prompts fit into one of the server's
batches, so that the sequences start together and each step decodes all of them:

    slots   0 1 2 3   0 1 2 3   0 1 2 3
    chunks  t t t t | t t t t | t t t t    a step ends where a row comes again
"""

import importlib
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, final

from benchmarks.engine.llama_gguf import write_gguf

WARM_TOKENS = 8  # of a prompt with which a new server is warmed up


@final
class LlamaSide:
    """The side holds the converted model; each turn has a server with a slot a row."""

    def __init__(self, directory: str, threads: int) -> None:
        self._llama = importlib.import_module("xllamacpp")
        self._threads = threads
        self._folder = tempfile.TemporaryDirectory(prefix="mell-bench-")
        self._path = Path(self._folder.name) / "model.gguf"
        self._server: Any = None
        try:
            write_gguf(Path(directory), path=self._path)
        except BaseException:
            self.close()
            raise

    def versions(self) -> dict[str, str]:
        """Returns the version of the binding, and for which CPU it was built."""
        return {
            "xllamacpp": str(self._llama.__version__),
            "built-for": _features(self._llama.get_system_info()),
        }

    def generate(
        self, prompts: list[list[int]], *, new_tokens: int, attention: str
    ) -> dict[str, Any]:
        """Runs a batch; `attention` is "flash" or "plain".

        Raises:
          RuntimeError: the server refused it, or did not give all tokens.
        """
        tokens = len(prompts[0]) + new_tokens
        self._server = self._make_server(len(prompts), tokens, attention)
        try:
            self._run([prompt[:WARM_TOKENS] for prompt in prompts], new_tokens=2)
            chunks = self._run(prompts, new_tokens=new_tokens)
        finally:
            self._server = None  # an idle one takes a core from the other sides' turns
        return collect(chunks, batch=len(prompts), new_tokens=new_tokens)

    def close(self) -> None:
        """Removes the converted model."""
        self._folder.cleanup()

    def _make_server(self, batch: int, tokens: int, attention: str) -> Any:
        llama = self._llama
        params = llama.CommonParams()
        params.model.path = str(self._path)
        params.verbosity = 1  # errors
        params.n_parallel = batch
        params.n_ctx = batch * tokens
        params.n_batch = batch * tokens
        params.cpuparams.n_threads = self._threads
        params.cpuparams_batch.n_threads = self._threads
        params.flash_attn_type = (
            llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if attention == "flash"
            else llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        params.fit_params = False
        params.cache_ram_mib = 0
        params.n_threads_http = 1
        return llama.Server(params)

    def _run(
        self, prompts: list[list[int]], *, new_tokens: int
    ) -> list[tuple[float, Any]]:
        """Returns what the server sent, each with its time."""
        chunks: list[tuple[float, Any]] = []
        start_s = time.perf_counter()

        def note(chunk: Any) -> None:
            chunks.append((time.perf_counter() - start_s, chunk))

        self._server.handle_completions(
            {
                "prompt": prompts,
                "n_predict": new_tokens,
                "samplers": ["top_k"],
                "top_k": 1,
                "ignore_eos": True,
                "cache_prompt": False,
                "stream": True,
            },
            note,
        )
        return chunks


def collect(
    chunks: Iterable[tuple[float, Any]], *, batch: int, new_tokens: int
) -> dict[str, Any]:
    """Returns the steps and tokens of what the server sent.

    The text of token 12 is "t12", see `llama_gguf`.

    Args:
      chunks: of a streamed completion, each with its time.

    Raises:
      RuntimeError: an answer is an error, or a row lacks tokens.
    """
    steps: list[tuple[float, list[int]]] = []
    tokens: list[list[int]] = [[] for _ in range(batch)]
    for time_s, chunk in chunks:
        if not chunk:  # the stream begins with one
            continue
        if "choices" not in chunk:
            raise RuntimeError(f"llama.cpp refused the batch: {chunk}")
        choice = chunk["choices"][0]
        for name in choice["text"].split("t")[1:]:
            row = choice["index"]
            tokens[row].append(int(name))
            rows = [] if not steps or row in steps[-1][1] else steps.pop()[1]
            steps.append((time_s, [*rows, row]))
    counts = [len(row) for row in tokens]
    if counts != [new_tokens] * batch:
        raise RuntimeError(f"llama.cpp gave {counts} tokens, not {new_tokens} each")
    return {"steps": steps, "tokens": tokens}


def _features(system_info: str) -> str:
    """The names of what is "= 1": "AVX2,FMA"."""
    pairs = (part.split(":")[-1].split("=") for part in system_info.split("|"))
    return ",".join(pair[0].strip() for pair in pairs if pair[-1].strip() == "1")
