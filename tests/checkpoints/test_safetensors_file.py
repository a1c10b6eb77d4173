import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mell_jax.checkpoints import CheckpointError, safetensors_file
from mell_jax.checkpoints.safetensors_file import (
    read_header,
    read_raw,
    read_tensor,
)

VALUES = np.array([[1.0, -2.5, 3.25], [0.0, 65504.0, -0.125]], np.float32)


def write(path, header, data=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    path.write_bytes(struct.pack("<Q", length) + text + data)
    return path


def entry(start, end, *, dtype="F32", shape=None):
    shape = [(end - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_a_file_of_the_reference_library_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    stored = {"a": VALUES, "empty": np.zeros((0, 4), np.float32), "c": VALUES[0]}
    save_file(stored, path, metadata={"format": "pt"})
    header = read_header(path)
    assert {name: t.shape for name, t in header.items()} == {
        "a": (2, 3),
        "empty": (0, 4),
        "c": (3,),
    }
    for name, tensor in header.items():
        np.testing.assert_array_equal(read_tensor(tensor), stored[name])


@pytest.mark.parametrize("chunk_bytes", [4, 8, 1 << 20])
@pytest.mark.parametrize("to", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_values_are_cast_right(tmp_path, monkeypatch, stored, to, chunk_bytes):
    monkeypatch.setattr(safetensors_file, "CHUNK_BYTES", chunk_bytes)
    path = tmp_path / "x.safetensors"
    exact = np.array([[1.0, -2.5, 3.25], [0.0, 32768.0, -0.125]], np.float32)
    save_file({"a": exact.astype(jnp.dtype(stored))}, path)
    read = read_tensor(read_header(path)["a"], dtype=jnp.dtype(to))
    assert read.dtype == jnp.dtype(to)
    np.testing.assert_array_equal(read.astype(np.float32), exact)


def test_a_cast_to_bfloat16_rounds_to_the_nearest_even(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.array([1.00390625, 1.01171875, 1.004], np.float32)}, path)
    read = read_tensor(read_header(path)["a"], dtype=jnp.bfloat16)
    assert read.astype(np.float32).tolist() == [1.0, 1.015625, 1.0078125]


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_a_value_too_large_for_float16_is_refused(tmp_path, stored):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.array([1.0, 1e5], jnp.dtype(stored))}, path)
    with pytest.raises(CheckpointError, match="'a' has values too large for float16"):
        read_tensor(read_header(path)["a"], dtype=np.float16)


def test_infinities_and_nan_survive_a_cast(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.array([np.inf, -np.inf, np.nan], np.float32)}, path)
    read = read_tensor(read_header(path)["a"], dtype=np.float16).tolist()
    assert read[:2] == [np.inf, -np.inf]
    assert np.isnan(read[2])


def test_large_arrays_are_whole_and_writable(tmp_path):
    path = tmp_path / "x.safetensors"
    stored = np.arange(1 << 19, dtype=np.float32).reshape(512, 1024)  # 2 MiB
    save_file({"a": stored}, path)
    read = read_tensor(read_header(path)["a"])
    np.testing.assert_array_equal(read, stored)
    assert read.flags.writeable


def test_integers_are_listed_but_are_no_weights(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros(3, np.int64)}, path)
    with pytest.raises(CheckpointError, match="'a' has the dtype I64; weights must be"):
        read_tensor(read_header(path)["a"])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("U8", np.uint8),
        ("I8", np.int8),
        ("U16", np.uint16),
        ("I16", np.int16),
        ("I32", np.int32),
        ("U32", np.uint32),
        ("I64", np.int64),
        ("U64", np.uint64),
        ("F16", np.float16),
        ("BF16", jnp.bfloat16),
        ("F64", np.float64),
        ("F8_E4M3", jnp.float8_e4m3fn),
        ("F8_E5M2", jnp.float8_e5m2),
        ("F8_E8M0", jnp.float8_e8m0fnu),
    ],
)
def test_every_type_is_read_as_it_is_stored(tmp_path, name, dtype):
    stored = np.arange(6).reshape(2, 3).astype(dtype)
    header = {"a": entry(0, stored.nbytes, dtype=name, shape=[2, 3])}
    path = write(tmp_path / "x.safetensors", header, stored.tobytes())
    read = read_raw(read_header(path)["a"])
    assert read.dtype == stored.dtype
    assert read.tobytes() == stored.tobytes()
    assert read.shape == (2, 3)


def test_the_types_are_those_of_the_reference_library(tmp_path):
    """Of eight bits and packed ones, as torch writes them."""
    stored = {
        "a": np.arange(4, dtype=np.int8),
        "b": np.array([1, -2, 0.5], jnp.float8_e4m3fn),
        "c": np.array([1, -2, 0.5], jnp.float8_e5m2),
        "d": np.array([[1 << 31, 7]], np.uint32),
    }
    path = tmp_path / "x.safetensors"
    save_file(stored, path)
    for name, tensor in read_header(path).items():
        read = read_raw(tensor)
        assert read.dtype == stored[name].dtype
        assert read.tobytes() == stored[name].tobytes()


def test_values_of_four_bits_stay_packed(tmp_path):
    header = {"a": entry(0, 3, dtype="F4", shape=[3, 2])}
    path = write(tmp_path / "x.safetensors", header, b"\x21\x43\x65")
    read = read_raw(read_header(path)["a"])
    assert read.tolist() == [[0x21], [0x43], [0x65]]
    header = {"a": entry(0, 3, dtype="F4", shape=[2, 3])}
    path = write(tmp_path / "x.safetensors", header, bytes(3))
    with pytest.raises(CheckpointError, match="'a' has half a byte in rows of 3"):
        read_raw(read_header(path)["a"])


def test_types_that_nothing_computes_with_are_listed_only(tmp_path):
    header = {"a": entry(0, 8, dtype="C64", shape=[1])}
    path = write(tmp_path / "x.safetensors", header, bytes(8))
    with pytest.raises(CheckpointError, match="'a' has the dtype C64; it must be one"):
        read_raw(read_header(path)["a"])


def test_a_file_cut_after_its_header_was_read_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": VALUES}, path)
    tensor = read_header(path)["a"]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="'a': the file ends inside it"):
        read_tensor(tensor)
    path.unlink()
    with pytest.raises(CheckpointError, match="'a' cannot be read: "):
        read_tensor(tensor)


@pytest.mark.parametrize(
    ("header", "data_bytes", "message"),
    [
        ({"a": entry(0, 8)}, 4, "truncated or damaged: its header describes"),
        ({"a": entry(0, 8)}, 12, "truncated or damaged: its header describes"),
        ({}, 1, "truncated or damaged"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "'b' overlaps the tensor before"),
        ({"a": entry(0, 8), "b": entry(0, 8)}, 8, "'b' overlaps the tensor before it"),
        ({"a": entry(0, 4), "b": entry(8, 12)}, 12, "'b' leaves a hole after"),
        ({"a": entry(4, 8)}, 8, "'a' leaves a hole after the tensor before it"),
        ({"a": entry(0, 8, shape=[3])}, 8, "span 8 bytes, but F32 [3] needs 12"),
        ({"a": entry(0, 1, dtype="F4", shape=[3])}, 1, "of F4 is no whole bytes"),
        ({"a": entry(0, 8, dtype="F99")}, 8, "header: a: dtype 'F99' is unknown"),
        ({"a": entry(0, 8, dtype=4)}, 8, "a: dtype must be a string"),
        ({"a": entry(0, 8, shape=[-1, -2])}, 8, "a: shape is out of range: [-1, -2]"),
        ({"a": entry(0, 8, shape=[True, 2])}, 8, "a: shape must be an integer or a"),
        ({"a": entry(0, 8, shape=[2.0])}, 8, "a: shape must be an integer or a list"),
        ({"a": entry(0, 4, shape=[1] * 9)}, 4, "a: shape is out of range"),
        ({"a": entry(0, 8, shape=[1 << 60] * 8)}, 8, "a: shape is out of range"),
        ({"a": entry(8, 0, shape=[2])}, 8, "a: data_offsets must be two positions"),
        ({"a": {**entry(0, 8), "data_offsets": [0]}}, 8, "must be two positions"),
        ({"a": {**entry(0, 8), "data_offsets": [-8, 0]}}, 8, "must be two positions"),
        ({"a": {"shape": [2], "data_offsets": [0, 8]}}, 8, "a: dtype is missing"),
        ({"a": [1]}, 8, "header: a must be an object, found a list"),
        ([], 0, "header: expected a JSON object, found a list"),
        (b"{", 0, "header: not valid JSON"),
        (b"\xff\xff", 0, "header: not valid JSON"),
        (b'{"a": {}, "a": {}}', 0, "the key 'a' occurs twice"),
        (b'{"a":' + b"[" * 100_000, 0, "header: not valid JSON"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path, header, data_bytes, message):
    path = write(tmp_path / "x.safetensors", header, bytes(data_bytes))
    with pytest.raises(CheckpointError) as error:
        read_header(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_a_header_longer_than_the_file_is_refused_unread(tmp_path):
    path = write(tmp_path / "x.safetensors", b"{}", length=(1 << 64) - 1)
    with pytest.raises(CheckpointError, match="announce a header of 18446744073709551"):
        read_header(path)


def test_a_header_bomb_is_refused_unread(tmp_path):
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 30))
        file.truncate((1 << 30) + 8)  # sparse: takes no space
    with pytest.raises(CheckpointError, match="is larger than the 16777216 allowed"):
        read_header(path)


@pytest.mark.parametrize("content", [b"", b"1234567", b"PK\x03\x04 pickled in a zip"])
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated, or no safetensors file"):
        read_header(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"x\.safetensors: no such file"):
        read_header(tmp_path / "x.safetensors")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["F32", "BF16", "a", "../../etc/passwd", "\0"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "a", "__metadata__"]),
            inner,
        )
    ),
    max_leaves=12,
)


def read_all(path):
    """Reads everything; only a `CheckpointError` may come out."""
    try:
        for tensor in read_header(path).values():
            read_raw(tensor)
            read_tensor(tensor, dtype=np.float32)
    except CheckpointError as error:
        assert str(path) in str(error)
        assert len(str(error)) < 1_000


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("corrupted") / "x.safetensors"


@settings(max_examples=300, deadline=None)
@given(header=st.dictionaries(st.sampled_from("abc"), JSON), data=st.binary())
def test_no_header_does_anything_but_raise_a_checkpoint_error(scratch, header, data):
    read_all(write(scratch, header, data))


@settings(max_examples=300, deadline=None)
@given(
    flips=st.lists(st.tuples(st.integers(0, 250), st.integers(0, 255)), max_size=4),
    size=st.integers(0, 250),
)
def test_no_changed_byte_does_anything_but_raise(scratch, flips, size):
    save_file({"weight": VALUES, "bias": VALUES[0].astype(jnp.bfloat16)}, scratch)
    content = bytearray(scratch.read_bytes())
    for position, value in flips:
        content[position % len(content)] = value
    scratch.write_bytes(bytes(content[: max(size, len(content) - size)]))
    read_all(scratch)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=64))
def test_no_bytes_do_anything_but_raise(scratch, content):
    scratch.write_bytes(content)
    read_all(scratch)
