"""Compressed bodies are read within the bounds of plain ones."""

import gzip
import itertools
import json
import zlib
from pathlib import Path

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mell_jax.serving.http import body as module
from mell_jax.serving.http.body import MAX_BODY_BYTES, _Gzip
from mell_jax.serving.problem import MalformedMessageError
from tests.serving.harness import run, serving

BODY = json.dumps({"prompt": "c", "max_tokens": 3}).encode()
MIB = 1024 * 1024


def _bomb(num_bytes: int) -> bytes:
    squeeze = zlib.compressobj(9, wbits=31)
    return squeeze.compress(b" " * num_bytes) + squeeze.flush()


CASES: dict[str, tuple[str, bytes, int]] = {
    "gzip": ("gzip", gzip.compress(BODY), 200),
    "its older name": ("x-gzip", gzip.compress(BODY), 200),
    "in capitals": ("GZIP", gzip.compress(BODY), 200),
    "none by name": ("identity", BODY, 200),
    "none": ("", BODY, 200),
    "the largest": ("gzip", gzip.compress(BODY + b" " * (4 * MIB - len(BODY))), 200),
    "a byte more": (
        "gzip",
        gzip.compress(BODY + b" " * (4 * MIB - len(BODY) + 1)),
        413,
    ),
    "a bomb": ("gzip", _bomb(1000 * MIB), 413),
    "a bomb in a bomb": ("gzip", gzip.compress(_bomb(100 * MIB)), 400),
    "many bytes that mean none": ("gzip", b"\0\0\0\xff\xff" * MIB, 400),
    "long before it is unpacked": (
        "gzip",
        gzip.compress(BODY)[:10] + b"\0\0\0\xff\xff" * MIB,
        413,
    ),
    "two members": ("gzip", gzip.compress(BODY) * 2, 400),
    "cut short": ("gzip", gzip.compress(BODY)[:-1], 400),
    "a wrong sum": ("gzip", gzip.compress(BODY)[:-8] + b"\0" * 8, 400),
    "nothing": ("gzip", b"", 400),
    "plain": ("gzip", BODY, 400),
    "twice": ("gzip, gzip", gzip.compress(gzip.compress(BODY)), 415),
    "deflate": ("deflate", zlib.compress(BODY), 415),
    "brotli": ("br", BODY, 415),
    "a strange name": ("x" * 1000, BODY, 415),
}


@pytest.mark.parametrize("case", CASES)
def test_bodies_may_be_compressed_within_bounds(case: str, letters_dir: Path) -> None:
    encoding, content, status = CASES[case]

    async def scenario() -> None:
        async with (
            serving(directory=letters_dir, http_port=0) as s,
            httpx2.AsyncClient(base_url=f"http://{s.http}") as client,
        ):
            headers = {"content-encoding": encoding} if encoding else {}
            try:
                answer = await client.post(
                    "/v1/completions", content=content, headers=headers
                )
            except httpx2.HTTPError:  # the answer came before all was sent
                assert status == 413
                return
            assert answer.status_code == status, answer.text
            if status == 200:
                assert answer.json()["choices"][0]["text"] == "cfl"
            assert len(s.engine.submits) == (status == 200)

    run(scenario)


@settings(max_examples=50)
@given(
    text=st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 400), max_size=5),
    level=st.integers(0, 9),
)
def test_parts_of_any_size_mean_the_same(
    text: bytes, cuts: list[int], level: int
) -> None:
    packed = gzip.compress(text, compresslevel=level)
    reader, ends = _Gzip(), [0, *sorted(cuts), len(packed)]
    parts = [packed[a:b] for a, b in itertools.pairwise(ends)]
    assert b"".join(reader.read(part) for part in parts) == text
    reader.end()
    with pytest.raises(MalformedMessageError, match="goes on"):
        reader.read(b"x")


def test_a_bomb_never_unfolds() -> None:
    meant = _Gzip().read(_bomb(100 * MIB))
    assert len(meant) == MAX_BODY_BYTES + 1
    assert module.MAX_BODY_BYTES == 4 * MIB
