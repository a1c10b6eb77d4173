"""`--suite=grammar` measures what grammars cost their rows, other rows, first tokens.

Guides are measured alone, with the tokens of a tokenizer, along answers to every schema
of a corpus; then an engine of a small model with as many tokens (random weights), whose
free rows should not notice the others. Answers are made of bytes first, by a guide
whose tokens are the bytes, and then cut into tokens.
"""

import contextlib
import dataclasses
import gzip
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flax import nnx
from tqdm import tqdm

from benchmarks.engine.harness import EngineHarness
from benchmarks.grammar.guides import GuideResult, make_answers, measure_guides
from benchmarks.grammar.steps import (
    FirstTokenResult,
    StepResult,
    measure_first_tokens,
    measure_steps,
)
from mell_jax.bench.report import BenchReport, line, table, title
from mell_jax.bench.stats import Summary
from mell_jax.checkpoints import save_hf
from mell_jax.engine.build import build_engine, demo_directory
from mell_jax.engine.config import EngineConfig
from mell_jax.models.decoder import Decoder
from mell_jax.models.uniform import uniform_config
from mell_jax.text.tokenizer import Tokenizer, load_tokenizer

MAX_MODEL_LEN = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarSettings:
    """The settings are those of one run.

    Raises:
      ValueError: a value is out of range, naming the flag and the rule.
    """

    tokenizer: Path | None = None  # a folder, or a tokenizer.json, gzip or not
    rows: int = 32
    constrained: int = 8  # of the rows
    steps: int = 60  # per turn
    repeats: int = 5  # turns
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.constrained < self.rows):
            raise ValueError(
                f"constrained must be from 1 to {self.rows - 1}, got {self.constrained}"
            )
        for name in ("steps", "repeats"):
            if not (getattr(self, name) >= 1):
                raise ValueError(f"{name} must be at least 1")


def run_grammar(settings: GrammarSettings, *, progress: bool) -> BenchReport:
    """Measures guides, then an engine.

    Raises:
      ValueError: the tokenizer cannot be used.
    """
    bar = tqdm(total=4, desc="grammar", unit="part", disable=not progress)
    with contextlib.closing(bar), tempfile.TemporaryDirectory() as folder:
        tokenizer = open_tokenizer(settings.tokenizer, scratch=Path(folder))
        vocab_size = len(tokenizer.vocabulary.token_bytes)
        end_id = tokenizer.eos_id if tokenizer.eos_id is not None else 0
        tokens = tokenizer.token_table(end_ids=(end_id,), vocab_size=vocab_size)
        answers = make_answers(tokens, seed=settings.seed)
        guides = measure_guides(tokens, answers=answers)
        bar.update()
        with _engine(
            settings, tokenizer, end_id=end_id, scratch=Path(folder)
        ) as engine:
            bar.update()
            steps = measure_steps(
                engine,
                rows=settings.rows,
                constrained=settings.constrained,
                steps=settings.steps,
                repeats=settings.repeats,
                seed=settings.seed,
            )
            bar.update()
            firsts = measure_first_tokens(
                engine, repeats=20 * settings.repeats, seed=settings.seed
            )
            bar.update()
    return BenchReport(
        suite="grammar",
        text=render(vocab_size, guides=guides, steps=steps, firsts=firsts),
        results={
            "vocab_size": vocab_size,
            "guides": dataclasses.asdict(guides),
            "steps": dataclasses.asdict(steps),
            "first_tokens": dataclasses.asdict(firsts),
        },
    )


def open_tokenizer(path: Path | None, *, scratch: Path) -> Tokenizer:
    """Returns the tokenizer of a folder or a file, by default the demo model's.

    Raises:
      ValueError: it cannot be read; names the path.
    """
    path = path or demo_directory()
    if path.is_dir():
        return load_tokenizer(path)
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except OSError as error:
        raise ValueError(f"tokenizer {path} cannot be read: {error}") from error
    (scratch / "tokenizer.json").write_bytes(data)
    return load_tokenizer(scratch)


@contextlib.contextmanager
def _engine(
    settings: GrammarSettings, tokenizer: Tokenizer, *, end_id: int, scratch: Path
) -> Iterator[EngineHarness]:
    """Yields an engine of a small model that has the tokens."""
    shape = uniform_config(
        vocab_size=len(tokenizer.vocabulary.token_bytes),
        hidden_size=64,
        intermediate_size=128,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=32,
        max_position_embeddings=MAX_MODEL_LEN,
        tie_embeddings=True,
    )
    directory = scratch / "model"
    directory.mkdir()
    save_hf(directory, decoder=Decoder(shape, rngs=nnx.Rngs(0)), eos_ids=(end_id,))
    config = EngineConfig(
        model=str(directory),
        max_rows=settings.rows,
        decode_rows=(settings.rows,),
        token_budget=256,
        max_model_len=MAX_MODEL_LEN,
        prefix_cache=False,
    )
    built = build_engine(config, progress=False)
    built.learn({info.model_name: tokenizer for info in built.engine.infos})
    try:
        yield EngineHarness(built)
    finally:
        built.engine.close()


def render(
    vocab_size: int,
    *,
    guides: GuideResult,
    steps: StepResult,
    firsts: FirstTokenResult,
) -> str:
    """Returns the figures for a person."""
    share = f"{100 * guides.forced_tokens / max(1, guides.tokens):.0f}%"
    parts = [
        f"{vocab_size} tokens, {guides.schemas} schemas, {guides.tokens} tokens of "
        "answers; milliseconds",
        _times(
            {
                "mask after a token": guides.mask_ms,
                "the same, compiled before": guides.kept_mask_ms,
                "guide of a new schema": guides.new_ms,
                "guide of a kept one": guides.kept_ms,
                "guide behind 49 tokens": guides.replay_ms,
            }
        ),
        line("tokens compiled once, s", guides.tokenizer_s),
        line("answers' tokens that are forced", share),
        title(f"{steps.rows} rows, {steps.constrained} constrained", fill="-"),
        _times(
            {
                "free rows, all free": steps.free_ms,
                "free rows beside them": steps.beside_ms,
                "constrained rows": steps.own_ms,
            }
        ),
        line("free rows beside them / all free", steps.ratio),
        title("first token", fill="-"),
        _times(
            {
                "without a schema": firsts.free_ms,
                "with a new one": firsts.new_ms,
                "with a known one": firsts.known_ms,
            }
        ),
        line("a new one more, turn by turn", firsts.new_more_ms),
        line("a known one more, turn by turn", firsts.known_more_ms),
    ]
    return "\n".join(parts)


def _times(rows: dict[str, Summary]) -> str:
    return table(
        ("", "count", "p50", "p99", "max"),
        [
            (name, str(each.count), each.median, each.p99, each.max)
            for name, each in rows.items()
        ],
    )
