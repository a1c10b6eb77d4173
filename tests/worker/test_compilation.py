"""The folder of compiled programs: used while an engine is built, and then no more."""

import contextlib
import dataclasses
import functools
import os
import pwd
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding, PartitionSpec

from mell_jax import LLM, SamplingParams
from mell_jax.engine.build import build_engine
from mell_jax.engine.config import EngineConfig
from mell_jax.launch import make_config
from mell_jax.worker.compilation import (
    UnusableCacheError,
    keep_programs,
    open_cache,
    use_compilation_cache,
)
from mell_jax.worker.group import DeviceGroup

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
SMALL: dict[str, Any] = {
    "max_rows": 2,
    "decode_rows": (2,),
    "token_budget": 16,
    "max_model_len": 32,
    "kv_pages": 9,
}


def in_force() -> list[object]:
    return [getattr(jax.config, name) for name in SETTINGS]


@pytest.fixture(autouse=True)
def no_folder_of_the_tests() -> Iterator[None]:
    """Nothing is kept but what a test keeps."""
    before = in_force()
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    for name, value in zip(SETTINGS, before, strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def compile_something(factor: int) -> None:
    jax.jit(lambda x: x * factor + 1)(jnp.ones(3)).block_until_ready()


def test_programs_are_kept_inside_the_block_alone(tmp_path: Path) -> None:
    mine, users = tmp_path / "mine", tmp_path / "users"
    jax.config.update("jax_compilation_cache_dir", str(users))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compile_something(2)
    wanted, kept = in_force(), len(list(users.iterdir()))
    assert kept
    with use_compilation_cache(open_cache(str(mine))):
        compile_something(3)
    assert list(mine.iterdir())
    assert len(list(users.iterdir())) == kept
    assert in_force() == wanted
    inside = len(list(mine.iterdir()))
    compile_something(5)
    assert len(list(users.iterdir())) > kept
    assert len(list(mine.iterdir())) == inside


def test_the_settings_come_back_after_an_error(tmp_path: Path) -> None:
    before = in_force()
    with (
        pytest.raises(KeyError),
        use_compilation_cache(open_cache(str(tmp_path / "cache"))),
    ):
        raise KeyError
    assert in_force() == before


def test_a_library_leaves_the_settings_of_its_user(tmp_path: Path) -> None:
    before = in_force()
    with LLM(compilation_cache_dir=str(tmp_path / "cache"), **SMALL) as llm:
        assert in_force() == before
        kept = len(list((tmp_path / "cache").iterdir()))
        assert kept
        llm.generate([5, 6], SamplingParams(max_tokens=3))
        compile_something(7)
        assert len(list((tmp_path / "cache").iterdir())) == kept


def test_a_folder_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o777)
    assert open_cache(str(tmp_path / "cache")) == tmp_path / "cache"
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700


def without_home(monkeypatch: pytest.MonkeyPatch) -> str:
    """HOME is not set, and the user is in no list, as in some containers."""

    def nobody(uid: int) -> object:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    return "~/.cache/mell_jax"


def behind_a_file(tmp_path: Path) -> str:
    (tmp_path / "file").write_text("")
    return str(tmp_path / "file" / "cache")


def not_writable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """As on a read-only file system; permissions alone do not stop a root user."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    return str(tmp_path)


def of_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    return str(tmp_path)


@pytest.mark.parametrize("kind", ["home", "file", "proc", "written", "owner"])
def test_a_folder_that_cannot_be_used(
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as patch:
        directory = {
            "home": lambda: without_home(patch),
            "file": lambda: behind_a_file(tmp_path),
            "proc": lambda: "/proc/mell",
            "written": lambda: not_writable(patch, tmp_path),
            "owner": lambda: of_another(patch, tmp_path),
        }[kind]()
        with pytest.raises(UnusableCacheError) as caught:
            keep_programs(directory, is_optional=False, is_shared=False)
        told = str(caught.value)
        assert told.startswith(f"compilation_cache_dir {directory!r} cannot be used: ")
        assert "or none with an empty text" in told
        assert caplog.messages == []
        before = in_force()
        with keep_programs(directory, is_optional=True, is_shared=False):
            assert in_force() == before
    (line,) = caplog.messages
    assert line == f"nothing compiled is kept for the next start: {told}"


@contextlib.contextmanager
def counting() -> Iterator[Counter[str]]:
    """What jax's cache is asked for within the block, by what became of it."""
    seen: Counter[str] = Counter()

    def count(event: str, **_: str | int) -> None:
        seen[event.rpartition("/")[2]] += 1

    jax.monitoring.register_event_listener(count)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_listener(count)


def mix(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.sin(x @ y) + jnp.sort(x, axis=1), y + 1


def pair_on(devices: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    group = DeviceGroup(devices=tuple(jax.devices()[number] for number in devices))
    where: Any = group.replicated
    if group.size > 1:
        where = NamedSharding(group.mesh, PartitionSpec(None, "tp"))
    values = np.random.default_rng(0).standard_normal((2, 16, 16)).astype(np.float32)
    x, y = (jax.device_put(value, where) for value in values)
    return x, y


@pytest.mark.parametrize("directory", ["", "kept"])
@pytest.mark.parametrize("groups", [[(0,), (2,), (3,)], [(0, 1), (2, 3), (3, 0)]])
def test_equal_devices_compile_once_and_answer_alike(
    directory: str, groups: list[tuple[int, ...]], tmp_path: Path
) -> None:
    folder = str(tmp_path / directory) if directory else ""
    mix_anew = functools.partial(mix)  # jax remembers functions
    compiled, moved = jax.jit(mix_anew, donate_argnums=1), []
    answers: list[tuple[jax.Array, jax.Array]] = []
    with (
        keep_programs(folder, is_optional=False, is_shared=True),
        counting() as seen,
    ):
        for group in groups:
            x, y = pair_on(group)
            answers.append(compiled(x, y))
            moved.append(y.is_deleted())
    assert moved == [True] * 3  # donated on each
    assert (seen["cache_misses"], seen["cache_hits"]) == (1, 2)
    for (one, _), group in zip(answers, groups, strict=True):
        assert {device.id for device in one.devices()} == set(group)
        np.testing.assert_array_equal(np.asarray(one), np.asarray(answers[0][0]))


def test_the_users_own_cache_stays_his_where_nothing_is_to_be_kept(
    tmp_path: Path,
) -> None:
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        for is_shared in (False, True):
            with keep_programs("", is_optional=False, is_shared=is_shared):
                assert jax.config.jax_compilation_cache_dir == str(tmp_path)
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()


def test_an_engine_is_built_without_an_optional_folder(tmp_path: Path) -> None:
    directory = behind_a_file(tmp_path)
    named = EngineConfig(compilation_cache_dir=directory, **SMALL)
    with pytest.raises(UnusableCacheError):
        build_engine(named)
    built = build_engine(dataclasses.replace(named, is_cache_optional=True))
    assert built.engine.load().steps == 0


def test_only_the_default_of_the_server_is_optional() -> None:
    (by_default,) = make_config({}).engines
    assert by_default.is_cache_optional
    assert by_default.compilation_cache_dir == "~/.cache/mell_jax"
    (named,) = make_config({"compilation_cache_dir": "~/.cache/mell_jax"}).engines
    assert not named.is_cache_optional
