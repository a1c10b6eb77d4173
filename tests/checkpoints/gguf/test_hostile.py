"""Whatever a file says: it is read, or refused by name; nothing else happens."""

import struct

import numpy as np
import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.checkpoints.gguf import open_gguf, read_gguf_spec
from mell_jax.model_files import gguf_file
from mell_jax.model_files.gguf_file import GgufError, read_head
from tests.checkpoints.gguf.tiny_gguf import write_gguf

UINT32, STRING, ARRAY = 4, 8, 9


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def number(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", UINT32, value)


def tensor(name="t", shape=(32,), kind=0, start=0, rank=None) -> bytes:
    rank = len(shape) if rank is None else rank
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    head = text(name) + struct.pack("<I", rank)
    return head + sizes + struct.pack("<IQ", kind, start)


def write(path, *, keys=(), tensors=(), data=b"", version=3, counts=None):
    """A file of these parts; `counts` of tensors and keys may be lies."""
    counts = counts or (len(tensors), len(keys))
    head = b"GGUF" + struct.pack("<IQQ", version, *counts)
    body = head + b"".join(keys) + b"".join(tensors)
    path.write_bytes(body + b"\0" * (-len(body) % 32) + data)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


def test_an_honest_file_is_read(path):
    write(
        path,
        keys=[number("a", 7), text("b") + struct.pack("<I", STRING) + text("ü")],
        tensors=[tensor("x", (32, 2)), tensor("y", (8,), start=256)],
        data=bytes(256 + 32),
    )
    head = read_head(path)
    assert head.metadata == {"a": 7, "b": "ü"}
    assert {name: one.shape for name, one in head.tensors.items()} == {
        "x": (2, 32),
        "y": (8,),
    }
    assert [packed.size_bytes for packed in open_gguf(path).tensors.values()] == [
        256,
        32,
    ]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"version": 1}, r"GGUF version 1 is not read"),
        ({"version": 3 << 24}, r"\(of a big-endian machine\) is not read"),
        ({"counts": (0, 1)}, r"truncated: the file ends inside"),
        ({"counts": (0, 1 << 40)}, r"1099511627776 keys are more than the 65536"),
        ({"counts": (1 << 40, 0)}, r"1099511627776 tensors are more than the 65536"),
        ({"keys": [number("a", 1)] * 2}, r"the key 'a' occurs twice"),
        ({"keys": [struct.pack("<Q", 1 << 60)]}, r"are more than the 4194304 allowed"),
        ({"keys": [text(b"\xff")]}, r"the name of a key is not UTF-8"),
        ({"keys": [text("a") + struct.pack("<I", 99)]}, r"'a' has an unknown type, 99"),
        (
            {"keys": [text("a") + struct.pack("<IIQ", ARRAY, ARRAY, 1)]},
            r"'a' is an array of an unknown type, 9",
        ),
        (
            {"keys": [text("a") + struct.pack("<IIQ", ARRAY, UINT32, 1 << 50)]},
            r"entries of 'a' are more than",
        ),
        (
            {"keys": [text("a") + struct.pack("<IIQ", ARRAY, UINT32, 1 << 20)]},
            r"truncated: the file ends inside 'a'",
        ),
        (
            {"keys": [text("a") + struct.pack("<IIQ", ARRAY, STRING, 1 << 20)]},
            r"entry \d+ of 'a' is truncated",
        ),
        (
            {
                "keys": [
                    text("a") + struct.pack("<IIQ", ARRAY, STRING, 1) + text(b"\xff")
                ]
            },
            r"entry 0 of 'a' is not UTF-8",
        ),
        (
            {"keys": [number("general.alignment", 0)]},
            r"must be a power of two, found 0",
        ),
        ({"keys": [number("general.alignment", 48)]}, r"must be a power of two"),
        ({"tensors": [tensor(shape=(1,) * 5)]}, r"has 5 dimensions, 4 at most"),
        ({"tensors": [tensor(rank=1 << 31)]}, r"dimensions, 4 at most"),
        ({"tensors": [tensor(shape=(1 << 40, 1 << 40))]}, r"'t' has the shape"),
        ({"tensors": [tensor(shape=(0,))]}, r"'t' has the shape \[0\]"),
        ({"tensors": [tensor(start=1 << 60)]}, r"'t' begins at byte"),
        ({"tensors": [tensor(start=8)]}, r"begins at byte 8 of the data, no multiple"),
        ({"tensors": [tensor()] * 2}, r"the tensor 't' occurs twice"),
    ],
)
def test_a_head_that_lies_is_refused(path, parts, words):
    write(path, **parts)
    with pytest.raises(GgufError, match=words) as caught:
        read_head(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"tensors": [tensor()]}, r"'t' ends at byte 192, but the file has 64: trunc"),
        ({"tensors": [tensor(kind=2)], "data": bytes(17)}, r"ends at byte 82"),
        ({"tensors": [tensor(kind=4000)]}, r"has the type 4000, which the package"),
        ({"tensors": [tensor(shape=(31,), kind=2)]}, r"rows of 31 values, but Q4_0 pa"),
        (
            {
                "tensors": [tensor("a", (64,)), tensor("b", (64,), start=128)],
                "data": bytes(1024),
            },
            r"tensor 'b' overlaps the tensor before it",
        ),
    ],
)
def test_tensors_that_lie_are_refused(path, parts, words):
    write(path, **parts)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_gguf(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("data", [b"", b"GG", b"\0" * 64, b"PK\3\4" * 16])
def test_another_file_is_no_gguf(path, data):
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model.gguf: (no GGUF file|truncated)"):
        open_gguf(path)


def test_a_head_beyond_all_bounds_is_refused_before_it_is_read(path, monkeypatch):
    monkeypatch.setattr(gguf_file, "MAX_METADATA_BYTES", 64)
    many = struct.pack("<IIQ", ARRAY, STRING, 30) + text("word") * 30
    write(path, keys=[text("a") + many])
    with pytest.raises(GgufError, match=r"head is larger than the 64 bytes allowed"):
        read_head(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "model.gguf"
    write_gguf(
        path,
        kind="Q8_0",
        **{
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": [f"t{i}" for i in range(48)],
            "tokenizer.ggml.eos_token_id": 2,
        },
    )
    return path


def test_a_file_cut_anywhere_is_refused_by_name(path, whole):
    data = whole.read_bytes()
    cuts = [*range(0, 3000, 7), *range(3000, len(data), 40_007), len(data) - 32]
    for size in cuts:
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=r"model.gguf"):
            open_gguf(path)


def test_a_damaged_head_is_read_or_refused_and_nothing_else(path, whole):
    data, random = whole.read_bytes(), np.random.default_rng(0)
    outcomes = set()
    for _ in range(400):
        spoiled = bytearray(data)
        for at in random.integers(4, 3000, random.integers(1, 4)):
            spoiled[at] = random.integers(0, 256)
        path.write_bytes(spoiled)
        try:
            read_gguf_spec(open_gguf(path))
            outcomes.add("read")
        except CheckpointError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
