from pathlib import Path

from flax import nnx

from benchmarks.gpu.launches import PROGRAMS, thunk_figures
from mell_jax.bench.shapes import SHAPES
from mell_jax.engine.fleet import page_transfer
from mell_jax.models.decoder import Decoder
from mell_jax.pallas_kernels import checksum_pages, gather_pages, scatter_pages
from mell_jax.worker.cache_layout import lay_out
from mell_jax.worker.layout import Bucket
from mell_jax.worker.step import StepOptions, make_programs, split_model

BEFORE = """\
001: kCustomKernel [source       | next=002 (1)] input_fusion grid: [32, 1, 1]
002: kConditional [prev=001 (1) | sink        ]
"""
AFTER = """\
000: kCommandBuffer [source | sink]
    001: kCustomKernel [source       | next=002 (1)] input_fusion grid: [32, 1, 1]
    002: kConditional [prev=001 (1) | sink        ]
        003: kCopy [source | sink] kCopy
"""
COPY = "  ROOT %copy.2 = bf16[2048,1024]{1,0} copy(%a.1)"
LOOP = """\
000: kCopy         [source | next=001 (1)] kCopy
001: kWhile        [prev=000 (1) | sink]
  body:
    002: kCustomKernel [source | sink] loop_fusion
"""


def test_a_program_that_waits_is_short_of_its_goal(tmp_path: Path) -> None:
    copied = 'thunk_info { profile_annotation: "copy.2" thunk_id: 3 }'
    files = {
        "module_0003.jit_forward.thunk_sequence.txt": BEFORE,
        "module_0003.jit_forward.thunk_sequence_after_thunk_passes.txt": AFTER,
        "module_0003.jit_forward.thunk_metadata.txt": copied,
        "module_0003.jit_forward.sm_9.0_gpu_after_optimizations.txt": COPY,
        "module_0009.jit_program.thunk_sequence.txt": LOOP,
        "module_0009.jit_program.thunk_metadata.txt": "",
        "module_0001.jit_somebody_elses.thunk_sequence.txt": LOOP,
        "module_0001.jit_somebody_elses.thunk_metadata.txt": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    forward, program, total = thunk_figures(tmp_path)
    assert forward["name"] == "launches of module_0003.jit_forward"
    assert (forward["value"], forward["ratio"]) == (1, 1.0)
    note = "1 kCommandBuffer; 1 kernels; 1 large copies, of up to 4 MiB"
    assert forward["note"] == note
    assert (program["value"], program["ratio"]) == (3, 0.0)
    assert program["note"] == "1 kCopy, 1 kCustomKernel, 1 kWhile; 1 kernels"
    assert (total["value"], total["unit"], total["ratio"]) == (1, "of 2", 0.0)


def test_a_dump_that_broke_off_is_told(tmp_path: Path) -> None:
    (tmp_path / "module_0003.jit_forward.thunk_sequence.txt").write_text(LOOP)
    (only,) = thunk_figures(tmp_path)
    assert only["value"] is None
    assert "FileNotFoundError" in only["note"]


def test_a_folder_without_thunks_is_told(tmp_path: Path) -> None:
    (only,) = thunk_figures(tmp_path)
    assert only["value"] is None
    assert "for a GPU alone" in only["note"]


def test_every_program_of_the_engine_is_looked_for() -> None:
    """XLA calls a module "jit_" and the name of its function."""
    decoder = nnx.eval_shape(lambda: Decoder(SHAPES["tiny"], rngs=nnx.Rngs(0)))
    parts, _ = split_model(*nnx.split(decoder))
    programs = make_programs(
        parts,
        buckets=[Bucket(tokens=4, rows=2, pages=1, is_decode=False)],
        options=StepOptions(
            attention_backend="xla",
            page_tokens=16,
            places=lay_out(SHAPES["tiny"]).places,
        ),
        platform="cpu",
    )
    names: set[str] = set()
    programs.changed(lambda program: names.add(f"jit_{program.__name__}"))
    moves = (page_transfer._gather, gather_pages, scatter_pages, checksum_pages)
    names |= {f"jit_{program.__name__}" for program in moves}
    assert names == set(PROGRAMS)
