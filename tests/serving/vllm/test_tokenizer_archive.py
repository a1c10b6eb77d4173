import hashlib
import io
import zipfile
from pathlib import Path

import pytest
from smg_grpc_proto.generated import common_pb2

from mell_jax.serving.vllm.tokenizer_archive import chunks_of, pack, unpack


def sealed(data: bytes) -> list[common_pb2.GetTokenizerChunk]:
    digest = hashlib.sha256(data).hexdigest()
    return [common_pb2.GetTokenizerChunk(data=data, sha256=digest)]


def test_files_come_through(letters_dir: Path, tmp_path: Path) -> None:
    (letters_dir / "weights.safetensors").write_bytes(b"never sent")
    chunks = list(chunks_of(pack(letters_dir)))
    unpack(chunks, directory=tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"tokenizer.json", "tokenizer_config.json"}
    for name in names:
        assert (tmp_path / name).read_bytes() == (letters_dir / name).read_bytes()


def test_the_same_files_make_the_same_archive(letters_dir: Path) -> None:
    assert pack(letters_dir) == pack(letters_dir)


def test_only_the_last_chunk_has_the_digest() -> None:
    chunks = list(chunks_of(bytes(64 * 1024 + 1)))
    assert [len(chunk.data) for chunk in chunks] == [65536, 1]
    assert [bool(chunk.sha256) for chunk in chunks] == [False, True]


def test_a_damaged_archive_is_refused(letters_dir: Path, tmp_path: Path) -> None:
    (chunk,) = sealed(pack(letters_dir))
    chunk.data = chunk.data[:-1] + b"x"
    with pytest.raises(ValueError, match="arrived damaged"):
        unpack([chunk], directory=tmp_path)


def test_unknown_names_are_not_written(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("../evil", "x")
        zipped.writestr("run.py", "x")
    inside = tmp_path / "inside"
    inside.mkdir()
    unpack(sealed(archive.getvalue()), directory=inside)
    assert list(inside.iterdir()) == []
    assert list(tmp_path.iterdir()) == [inside]


@pytest.mark.parametrize(("size_bytes", "max_bytes"), [(10_000, 999), (100, 50)])
def test_a_bomb_is_refused(tmp_path: Path, size_bytes: int, max_bytes: int) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("tokenizer.json", bytes(size_bytes))
    with pytest.raises(ValueError, match="bytes, more than"):
        unpack(sealed(archive.getvalue()), directory=tmp_path, max_bytes=max_bytes)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="arrived damaged"):
        unpack(sealed(b"not a zip"), directory=tmp_path)
