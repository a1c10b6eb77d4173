"""Samples are dumps of XLA's GPU compiler, shortened."""

import subprocess
import sys
from pathlib import Path

from benchmarks.kernels.thunks import (
    Made,
    Thunk,
    kinds_outside,
    launches_by_name,
    name_thunks,
    num_kernels,
    num_launches,
    read_dump,
    read_made,
    read_thunks,
    waits,
)

KERNEL = "grid: [32, 1, 1] threads: [64, 1, 1]  shared_memory: 1024 bytes"
MIXED = f"""\
000: kCommandBuffer [source       | next=010 (1)]\x20
    001: kCustomKernel [source       | next=009 (5)] loop_compare_fusion_1 {KERNEL}
    009: kConditional  [prev=005 (1) | sink        ]       \x20
      false_branch:
        006: kCopy         [source       | next=007 (1)] kCopy
        007: kCustomKernel [prev=006 (1) | sink        ] sort_6_1 {KERNEL}
      true_branch:
        008: kCopy [source | sink] kCopy
010: kWhile         [prev=000 (1) | sink        ]  \x20
condition:
    012: kCustomKernel [prev=011 (1) | sink        ] loop_compare_fusion {KERNEL}
  body:
    015: kSequential [source       | next=016 (1)]       013: kCopy      [source | sink] kCopy
      014: kTriangularSolve [prev=013 (1) | sink        ] (no description)
    016: kCopy         [prev=015 (1) | sink        ] kCopy
"""  # noqa: E501
LOOP_INSIDE = f"""\
000: kCommandBuffer [source | sink]\x20
    008: kWhile        [prev=007 (1) | sink        ]      \x20
condition:
        009: kCustomKernel [source | sink] wrapped_compare {KERNEL}
      body:
        014: kConditional  [prev=010 (1) | next=015 (1)]          \x20
          true_branch:
            012: kCopy         [source       | next=013 (1)] kCopy
        016: kCustomKernel [source       | sink        ] loop_add_fusion {KERNEL}
"""
TO_HOST = f"""\
001: kCustomKernel  [source       | next=005 (1)] gemm_fusion_dot_2 {KERNEL}
005: kAsyncStart    [prev=001 (1) | sink        ] stream=computation_stream[0], async_id=5
    004: kCopy [source | sink] (no description)
000: kCommandBuffer [prev=003 (2) | sink        ]\x20
    006: kCopy          [source       | sink] kCopy
012: kAsyncDone     [source       | sink        ] async_id=5
"""  # noqa: E501
TO_HOST_METADATA = """\
thunk_metadata {
  thunk_info {
    profile_annotation: "command_buffer_1"
  }
  thunk_kind: "kCommandBuffer"
}
thunk_metadata {
  thunk_info {
    profile_annotation: "copy-start.1"
    thunk_id: 4
  }
  thunk_kind: "kCopy"
}
thunk_metadata {
  thunk_info {
    profile_annotation: "copy.2"
    thunk_id: 6
  }
  thunk_kind: "kCopy"
}
"""
TO_HOST_HLO = """\
ENTRY %main.1 (a.1: f32[64,64]) -> (f32[64,64], f32[4096,64]) {
  %copy-start.1 = (f32[64,64]{1,0:S(5)}, f32[64,64]{1,0}, u32[]) copy-start(%dot.1)
  %copy.2 = f32[4096,64]{1,0} copy(%a.1), metadata={op_name="jit(f)/scatter"}
  %and.3 = pred[8]{0} and(%b.1, %b.2)
  ROOT %tuple.1 = (f32[64,64]{1,0:S(5)}, s4[3]{0}) tuple(%copy-done.1, %copy.2)
}
"""


def test_thunks_are_read_with_what_holds_them() -> None:
    thunks = {thunk.number: thunk for thunk in read_thunks(MIXED)}
    assert list(thunks) == [0, 1, 9, 6, 7, 8, 10, 12, 15, 13, 14, 16]
    branch = ("kCommandBuffer", "kConditional")
    assert thunks[7] == Thunk(
        number=7, kind="kCustomKernel", name="sort_6_1", parents=branch
    )
    assert [thunks[n].parents for n in (0, 1, 8, 10)] == [
        (),
        ("kCommandBuffer",),
        branch,
        (),
    ]
    assert [thunks[n].parents for n in (12, 13, 14, 16)] == [
        ("kWhile",),
        ("kWhile", "kSequential"),
        ("kWhile", "kSequential"),
        ("kWhile",),
    ]
    assert thunks[13].name == "kCopy" and thunks[15].name == ""


def test_kinds_outside_a_command_buffer_are_counted() -> None:
    assert kinds_outside(read_thunks(MIXED)) == {
        "kCommandBuffer": 1,
        "kWhile": 1,
        "kCustomKernel": 1,
        "kSequential": 1,
        "kCopy": 2,
        "kTriangularSolve": 1,
    }


def test_a_host_waits_in_branches_and_loops_outside_a_command_buffer_only() -> None:
    assert [thunk.number for thunk in waits(read_thunks(MIXED))] == [10]
    assert waits(read_thunks(LOOP_INSIDE)) == ()
    outfeed = read_thunks("007: kOutfeed [source | sink] (no description)\n")
    assert waits(outfeed) == outfeed


def test_kernels_and_launches_are_counted_without_what_holds_them() -> None:
    thunks = read_thunks(MIXED)
    assert num_kernels(thunks) == 4
    assert num_launches(thunks) == 8
    assert num_kernels(read_thunks(LOOP_INSIDE)) == 2
    assert launches_by_name(thunks) == {
        "loop_compare_fusion": 2,
        "kCopy": 4,
        "sort": 1,
        "kTriangularSolve": 1,
    }


def test_instructions_come_from_the_metadata() -> None:
    thunks = name_thunks(read_thunks(TO_HOST), TO_HOST_METADATA)
    assert {thunk.number: thunk.instruction for thunk in thunks} == {
        1: "",
        5: "",
        4: "copy-start.1",
        0: "command_buffer_1",
        6: "copy.2",
        12: "",
    }
    assert thunks[0].name == "gemm_fusion_dot_2"


def test_what_instructions_make_is_read_from_the_hlo() -> None:
    assert read_made(TO_HOST_HLO) == {
        "copy-start.1": Made(num_bytes=16384, is_on_host=True),
        "copy.2": Made(num_bytes=2**20, is_on_host=False),
        "and.3": Made(num_bytes=8, is_on_host=False),
        "tuple.1": Made(num_bytes=16384, is_on_host=True),
    }
    assert read_made("  %x = f8e4m3fn[4,2]{1,0} copy(%y)")["x"].num_bytes == 8
    assert read_made("  ROOT %x = (s4[3]{0}, token[]) tuple(%y)")["x"].num_bytes == 2


def test_a_dump_has_its_programs_copies(tmp_path: Path) -> None:
    for name, text in (
        ("thunk_sequence", "001: kCopy [source | sink] kCopy\n"),
        ("thunk_sequence_after_thunk_passes", TO_HOST),
        ("thunk_metadata", TO_HOST_METADATA),
        ("sm_9.0a_gpu_after_optimizations", TO_HOST_HLO),
        ("sm_9.0a_gpu_after_optimizations-live-range", "%copy.2 = f32[1] copy(%a)"),
    ):
        (tmp_path / f"module_0001.jit_f.{name}.txt").write_text(text)
    (program,) = read_dump(tmp_path)
    assert program.name == "module_0001.jit_f"
    assert program.copies(at_least=0) == {"copy-start.1": 16384, "copy.2": 2**20}
    assert program.copies(at_least=2**20) == {"copy.2": 2**20}
    assert program.copies_to_host() == {"copy-start.1": 16384}
    assert program.bytes_of(program.thunks[0]) == 0


def test_a_program_that_no_pass_changed_has_its_first_sequence(tmp_path: Path) -> None:
    (tmp_path / "m.jit_f.thunk_sequence.txt").write_text(
        "001: kCustomKernel [source | sink] wrapped_sine\n"
    )
    (tmp_path / "m.jit_f.thunk_metadata.txt").write_text("")
    (program,) = read_dump(tmp_path)
    assert [thunk.name for thunk in program.thunks] == ["wrapped_sine"]
    assert read_dump(tmp_path / "empty") == ()


def test_reading_loads_neither_jax_nor_the_engine() -> None:
    code = (
        "import sys, benchmarks.kernels.thunks;"
        "assert not {'jax', 'mell_jax'} & set(sys.modules)"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)
