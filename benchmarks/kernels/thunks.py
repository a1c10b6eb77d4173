"""Reads what XLA writes of a GPU program when it is compiled with `xla_dump_to`.

A thunk is one thing that a host or its stream does: a kernel, a copy, or what holds
others. A command buffer is one launch; outside one, a branch or a loop makes the host
read its predicate back, and so wait for all that the device was given before:

    thunk_sequence    000: kCommandBuffer [source | sink]       order and nesting
                          001: kCopy [source | sink] kCopy
    thunk_metadata    thunk_id: 1  profile_annotation: "copy.2"     instructions
    optimised HLO     %copy.2 = f32[4096,64]{1,0} copy(%a.1)        bytes and places

Text in, values out: nothing is compiled here, and neither jax nor the engine loaded.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

COMMAND_BUFFER = "kCommandBuffer"
WAITS = frozenset({"kConditional", "kWhile"})
"""Outside a command buffer the host waits for the device in these."""
HOST = frozenset(
    {
        *("kHostExecuteStart", "kHostExecuteDone", "kInfeed", "kOutfeed"),
        *("kHostSend", "kHostSendDone", "kHostRecv", "kHostRecvDone"),
    }
)
"""The host takes part in these."""
HOLDERS = WAITS | {COMMAND_BUFFER, "kSequential", "kAsyncStart", "kAsyncDone"}
"""These are no work of the device: they hold others, or wait for them."""
MOVES = frozenset({"kCopy", "kMemzero", "kMemset32BitValue"})
"""These move or fill memory without a kernel."""

_THUNK = re.compile(r"(\d{3,}): (k\w+) *\[[^\]]*\](.*?)(?=\d{3,}: k\w+ *\[|$)", re.M)
_NAMED = re.compile(r'profile_annotation: "([^"]*)"(?:\s+thunk_id: (\d+))?')
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) [\w\-]+\(", re.M)
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_NUMBERS = re.compile(r"(_\d+)+$")
_HOST_SPACE = "S(5)"
_AFTER, _BEFORE = ".thunk_sequence_after_thunk_passes.txt", ".thunk_sequence.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thunk:
    """A thunk is one line of the sequence."""

    number: int
    kind: str  # "kCustomKernel"
    name: str  # of its kernel: "gemm_fusion_dot_4"
    parents: tuple[str, ...]  # kinds of those that hold it, outermost first
    instruction: str = ""  # of the HLO, "gemm_fusion_dot.4"; see `name_thunks`

    @property
    def in_command_buffer(self) -> bool:
        return COMMAND_BUFFER in self.parents

    @property
    def is_work(self) -> bool:
        """The device does something, and it holds no other thunk."""
        return self.kind not in HOLDERS

    @property
    def is_kernel(self) -> bool:
        return self.is_work and self.kind not in MOVES | HOST


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An HLO instruction made this."""

    num_bytes: int  # of its largest array
    is_on_host: bool  # the first array: the one that a copy writes


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program is the thunks of one executable and what its instructions make."""

    name: str
    thunks: tuple[Thunk, ...]
    made: Mapping[str, Made]

    def bytes_of(self, thunk: Thunk) -> int:
        """Returns how much the thunk's instruction makes; 0 where it is unknown."""
        made = self.made.get(thunk.instruction)
        return 0 if made is None else made.num_bytes

    def copies(self, *, at_least: int) -> dict[str, int]:
        """Returns bytes of the copies of so many bytes, by their instruction."""
        sizes = {
            thunk.instruction: self.bytes_of(thunk)
            for thunk in self.thunks
            if thunk.kind == "kCopy"
        }
        return {name: size for name, size in sizes.items() if size >= at_least}

    def copies_to_host(self) -> dict[str, int]:
        """Returns bytes of what is copied to the host, by the instruction."""
        found = {}
        for thunk in self.thunks:
            made = self.made.get(thunk.instruction)
            if thunk.kind == "kCopy" and made is not None and made.is_on_host:
                found[thunk.instruction] = made.num_bytes
        return found


def read_thunks(sequence: str) -> tuple[Thunk, ...]:
    """Returns the thunks of a dumped sequence, in its order.

    A thunk is held by the nearest one before it that stands further to the left; one
    that stands on the line of another is held by that one.
    """
    found: list[Thunk] = []
    open_: list[tuple[int, str]] = []  # columns and kinds of holders
    line_of_last = -1
    for match in _THUNK.finditer(sequence):
        begin = sequence.rfind("\n", 0, match.start()) + 1
        column = match.start() - begin
        if begin == line_of_last:
            column = open_[-1][0] + 2
        line_of_last = begin
        while open_ and open_[-1][0] >= column:
            open_.pop()
        number, kind, rest = match.groups()
        words = rest.removeprefix(" (no description)").split()
        found.append(
            Thunk(
                number=int(number),
                kind=kind,
                name=words[0] if words else "",
                parents=tuple(kind for _, kind in open_),
            )
        )
        open_.append((column, kind))
    return tuple(found)


def name_thunks(thunks: Sequence[Thunk], metadata: str) -> tuple[Thunk, ...]:
    """Returns the thunks with the names of the HLO instructions that they come from."""
    names = {int(number or 0): name for name, number in _NAMED.findall(metadata)}
    return tuple(
        replace(thunk, instruction=names.get(thunk.number, "")) for thunk in thunks
    )


def read_made(hlo: str) -> dict[str, Made]:
    """Returns what each instruction of an HLO text makes."""
    made = {}
    for name, shape in _INSTRUCTION.findall(hlo):
        arrays = _ARRAY.findall(shape)
        if arrays:
            made[name] = Made(
                num_bytes=max(_array_bytes(dtype, dims) for dtype, dims, _ in arrays),
                is_on_host=_HOST_SPACE in arrays[0][2],
            )
    return made


def read_dump(folder: Path) -> tuple[Program, ...]:
    """Returns the programs that were compiled with `xla_dump_to=folder`, by name."""
    programs = []
    for before in sorted(folder.glob(f"*{_BEFORE}")):
        stem = before.name.removesuffix(_BEFORE)
        after = folder / f"{stem}{_AFTER}"  # absent where nothing changed
        sequence = (after if after.exists() else before).read_text()
        metadata = (folder / f"{stem}.thunk_metadata.txt").read_text()
        hlo = "".join(
            path.read_text()
            for path in folder.glob(f"{stem}.*gpu_after_optimizations.txt")
        )
        thunks = name_thunks(read_thunks(sequence), metadata)
        programs.append(Program(name=stem, thunks=thunks, made=read_made(hlo)))
    return tuple(programs)


def kinds_outside(thunks: Sequence[Thunk]) -> Counter[str]:
    """Returns how many thunks of each kind stand in no command buffer."""
    return Counter(thunk.kind for thunk in thunks if not thunk.in_command_buffer)


def waits(thunks: Sequence[Thunk]) -> tuple[Thunk, ...]:
    """Returns the thunks in which a host waits for the device, or takes part."""
    return tuple(
        thunk
        for thunk in thunks
        if thunk.kind in HOST or (thunk.kind in WAITS and not thunk.in_command_buffer)
    )


def num_kernels(thunks: Sequence[Thunk]) -> int:
    """Returns how many kernels are launched, those of a branch or a round once."""
    return sum(thunk.is_kernel for thunk in thunks)


def num_launches(thunks: Sequence[Thunk]) -> int:
    """Returns how many kernels, copies and fills the device is given."""
    return sum(thunk.is_work for thunk in thunks)


def launches_by_name(thunks: Sequence[Thunk]) -> Counter[str]:
    """Returns how often each kernel, copy or fill is launched, numbers cut off its
    name.
    """
    return Counter(_NUMBERS.sub("", t.name) or t.kind for t in thunks if t.is_work)


def _array_bytes(dtype: str, dims: str) -> int:
    """Bits stand in the name: f32, s4, f8e4m3fn; a pred is a byte, a token nothing."""
    count = math.prod(int(dim) for dim in dims.split(",") if dim)
    bits = re.match(r"[a-z]+(\d+)", dtype)
    if bits is None:
        return count if dtype == "pred" else 0
    return -(-count * int(bits[1]) // 8)
