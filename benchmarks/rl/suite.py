"""`--suite=rl` measures what a loop of training and serving pays for the serving.

One engine serves a model that is also there as a trainer has it, on the same devices:
how long new weights take and streams wait for them, what sleep gives back and waking
takes, and how fast rollouts are.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from tqdm import tqdm

from benchmarks.rl.rollout import RolloutResult, measure_rollout
from benchmarks.rl.sleeping import SleepResult, measure_sleep
from benchmarks.rl.update import UpdateResult, measure_update
from mell_jax.bench.report import BenchReport, line, table, title
from mell_jax.bench.shapes import count_parameters, model_directory
from mell_jax.bench.stats import Summary
from mell_jax.bench.workload import draw_shapes, random_prompts
from mell_jax.checkpoints import load_model
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.settled import choose_dtypes
from mell_jax.llm import LLM
from mell_jax.models.decoder import Decoder
from mell_jax.worker.pool import PAGE_TOKENS, page_bytes

MAX_MODEL_LEN = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RlSettings:
    """The settings are those of one run.

    Raises:
      ValueError: a value is out of range, naming the flag and the rule.
    """

    engine: EngineConfig  # its model may be "random:SHAPE"
    rollout: int = 64  # prompts
    prompt_tokens: int = 64  # median; longest: half of the context
    new_tokens: int = 64  # likewise
    streams: int = 8  # beside an update
    repeats: int = 5  # of updates and sleeps
    turns: int = 3  # of rollouts
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = ("rollout", "prompt_tokens", "new_tokens", "streams")
        for name in (*sizes, "repeats", "turns"):
            if not (getattr(self, name) >= 1):
                raise ValueError(f"{name} must be at least 1")
        if self.engine.instances * self.engine.tensor_parallel != 1:
            raise ValueError("instances must be 1, on one device")

    def options(self, *, context: int) -> dict[str, Any]:
        """Returns the engine's options for a model of this context.

        Its pool holds a rollout without preemption, and prompts are not found again:
        every turn computes the same ones.
        """
        length = min(context, self.engine.max_model_len or MAX_MODEL_LEN)
        pages = self.engine.kv_pages or self.rollout * -(-length // PAGE_TOKENS) + 1
        engine = dataclasses.replace(
            self.engine,
            max_model_len=length,
            max_rows=self.engine.max_rows or self.rollout,
            kv_pages=pages,
            prefix_cache=False,
        )
        options = {
            field.name: getattr(engine, field.name)
            for field in dataclasses.fields(engine)
        }
        del options["model"]
        return options


@dataclass(frozen=True, slots=True, kw_only=True)
class RlResult:
    """A result has all parts."""

    parameters: int
    updates: tuple[UpdateResult, ...]
    sleep: SleepResult
    rollout: RolloutResult


def run_rl(settings: RlSettings, *, progress: bool) -> BenchReport:
    """Measures all parts.

    Raises:
      ValueError: the model cannot be used.
      RuntimeError: the context is too short for the streams.
    """
    bar = tqdm(total=5, desc="rl", unit="part", disable=not progress)
    with contextlib.closing(bar), served(settings, progress=progress) as (llm, decoder):
        bar.update()
        result = measure_all(llm, decoder, settings, bar=bar)
    return BenchReport(
        suite="rl",
        text=render(settings.engine.model, result),
        results=dataclasses.asdict(result),
    )


@contextlib.contextmanager
def served(settings: RlSettings, *, progress: bool) -> Iterator[tuple[LLM, Decoder]]:
    """Yields a model as a trainer has it, in the engine's precision, and its engine."""
    device = jax.devices()[0]
    dtype, _ = choose_dtypes(settings.engine, platform=device.platform)
    home = jax.sharding.SingleDeviceSharding(device)
    with model_directory(settings.engine.model) as directory:
        model = load_model(
            directory, dtype=jnp.dtype(dtype), sharding_for=lambda *_: home
        )
    decoder = nnx.merge(model.graphdef, model.state)
    options = settings.options(context=model.spec.config.max_position_embeddings)
    with LLM.from_nnx(decoder, eos_ids=(), progress=progress, **options) as llm:
        yield llm, decoder


def measure_all(
    llm: LLM, decoder: Decoder, settings: RlSettings, *, bar: "tqdm[Any]"
) -> RlResult:
    """Returns one part after the other."""
    info = llm.info
    shapes = draw_shapes(
        max(settings.rollout, settings.streams),
        input_tokens=settings.prompt_tokens,
        output_tokens=settings.new_tokens,
        context=info.max_model_len,
        seed=settings.seed,
    )
    prompts = random_prompts(
        shapes, vocab_size=info.vocab_size, avoid=(), seed=settings.seed
    )
    shortest = sorted(prompts, key=len)
    updates = []
    for is_streamed in (False, True):
        updates.append(
            measure_update(
                llm,
                decoder,
                prompts=shortest[: settings.streams],
                is_streamed=is_streamed,
                repeats=settings.repeats,
            )
        )
        bar.update()
    sleep = measure_sleep(
        llm,
        decoder,
        prompt=shortest[0],
        pool_bytes=info.num_pages * _page_bytes(decoder, settings.engine),
        weights_bytes=updates[0].nbytes,
        repeats=settings.repeats,
    )
    bar.update()
    rollout = measure_rollout(
        llm,
        decoder,
        prompts=prompts[: settings.rollout],
        shapes=shapes[: settings.rollout],
        repeats=settings.turns,
    )
    bar.update()
    return RlResult(
        parameters=count_parameters(decoder.config),
        updates=tuple(updates),
        sleep=sleep,
        rollout=rollout,
    )


def _page_bytes(decoder: Decoder, engine: EngineConfig) -> int:
    platform = jax.devices()[0].platform
    _, dtype = choose_dtypes(engine, platform=platform)
    return page_bytes(decoder.config, dtype=jnp.dtype(dtype), platform=platform)


def render(model: str, result: RlResult) -> str:
    """Returns the figures for a person."""
    sleep, rollout = result.sleep, result.rollout
    return "\n".join(
        [
            f"{model}, {result.parameters / 1e6:.1f}M parameters",
            title("new weights", fill="-"),
            _update_table(result.updates),
            title("sleep", fill="-"),
            line(
                f"of a pool of {_mb(sleep.pool_bytes)}, given back",
                _percent(sleep.pool_share),
            ),
            line(
                f"of weights of {_mb(sleep.weights_bytes)}, given back",
                _percent(sleep.weights_share),
            ),
            line("wake to first token, ms", sleep.first_token_ms.median),
            line("bare copy of the weights, ms", sleep.copy_ms.median),
            line("pool of zeros, ms", sleep.zeros_ms.median),
            line("ratio to both", sleep.ratio),
            title(f"rollout of {rollout.prompts} prompts", fill="-"),
            _lengths("prompt tokens", rollout.prompt_tokens),
            _lengths("answer tokens", rollout.answer_tokens),
            line("engine, tokens/s", rollout.engine_tokens_per_s),
            line("scan, tokens/s", rollout.scan_tokens_per_s),
            line("ratio", rollout.ratio),
        ]
    )


def _update_table(updates: Sequence[UpdateResult]) -> str:
    header = ("", "update ms", "bare copy", "ratio", "with streams", "their gap ms")
    return table(
        (*header, "usual gap", "steps", "compiled"),
        [
            (
                "streamed" if each.is_streamed else "at once",
                each.update_ms.median,
                each.copy_ms.median,
                each.ratio,
                each.busy_ms.median,
                each.gap_ms.median,
                each.still_ms,
                each.downtime_steps,
                each.compilations,
            )
            for each in updates
        ],
    )


def _lengths(name: str, lengths: Summary) -> str:
    return line(f"{name}, mean / longest", f"{lengths.mean:.0f} / {lengths.max:.0f}")


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"
