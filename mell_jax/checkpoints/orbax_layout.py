"""Finds the Orbax checkpoint of a model directory, wherever a program has put it.

    DIR, DIR/orbax                     the tree itself
    DIR/10/default, DIR/10/items       a step of a CheckpointManager
    DIR/state, DIR/10/model_params     what Orbax v1 calls checkpointables

Only names and marks count here; no array is read. A step that was not written to its
end is passed over, and of several trees that might be meant none is guessed.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.json_file import shown

ORBAX_FOLDER = "orbax"
TREE_FILE = "_METADATA"
"""A folder with this file holds a tree of arrays."""
ITEMS = (
    *("default", "items", "state", "pytree"),
    *("params", "model_params", "model"),
)
"""Names that programs give to the tree with the parameters, beside other trees."""

_CHECKPOINT_FILE = "_CHECKPOINT_METADATA"
_COMMIT_FILE = "commit_success.txt"
_COMMIT_KEY = "commit_timestamp_nsecs"
_TEMPORARY = ".orbax-checkpoint-tmp"
_STEP_NAME = re.compile(r"(?:[A-Za-z][A-Za-z0-9-]*_)?([0-9]{1,18})")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tree:
    """A tree of arrays may be the one that is meant."""

    folder: Path
    step: int | None  # None where it is not among steps


def find_orbax(directory: Path, *, step: int | None = None) -> Path | None:
    """Returns the folder of the one tree that `directory` holds, None without any.

    Args:
      directory: a checkpoint, the folder of its steps, or a model directory with either
        of them in it as `orbax`.
      step: the one to take; None for the newest.

    Raises:
      CheckpointError: no step is finished, the wanted one is not there, or two trees
        have the same right to be taken.
    """
    homes = [home for home in (directory, directory / ORBAX_FOLDER) if home.is_dir()]
    trees = [list(_trees_in(home)) for home in homes]
    if not any(trees):
        if step is not None or any(map(_looks_like_orbax, homes)):
            raise CheckpointError(_nothing(homes))
        return None
    chosen = [tree for some in trees for tree in _choose(some, step=step)]
    if not chosen:
        steps = sorted({t.step for some in trees for t in some if t.step is not None})
        raise CheckpointError(
            f"{directory}: no finished step {step}; found "
            f"{', '.join(map(str, steps)) or 'a checkpoint that has no steps'}"
        )
    if len(chosen) > 1:
        names = [str(tree.folder.relative_to(directory)) for tree in chosen]
        raise CheckpointError(
            f"{directory}: several Orbax trees may be the parameters: "
            f"{', '.join(names)}; keep the one to use, or make "
            f"{directory / ORBAX_FOLDER} a link to it in a directory of its own"
        )
    return chosen[0].folder


def _trees_in(home: Path) -> Iterator[_Tree]:
    """Yields the finished trees of a folder: its own, or those of its steps."""
    for folder in _trees_of(home):
        yield _Tree(folder=folder, step=None)
    for entry in sorted(home.iterdir()):
        named = _STEP_NAME.fullmatch(entry.name)
        if named is not None and entry.is_dir():
            for folder in _trees_of(entry):
                yield _Tree(folder=folder, step=int(named[1]))


def _trees_of(folder: Path) -> Sequence[Path]:
    """Returns the folders of the trees of one checkpoint; none of an unfinished one."""
    inside = [folder] if (folder / TREE_FILE).is_file() else []
    inside = inside or [
        folder / name for name in ITEMS if (folder / name / TREE_FILE).is_file()
    ]
    if not inside or not _is_finished(folder):
        return ()
    return [one for one in inside if _is_finished(one)]


def _is_finished(folder: Path) -> bool:
    """Tells whether Orbax wrote a checkpoint to its end.

    It writes into a folder that it renames then, or leaves marks where renaming is not
    possible; old versions know only the former.
    """
    if _TEMPORARY in folder.name:
        return False
    mark = folder / _CHECKPOINT_FILE
    if (folder / _COMMIT_FILE).is_file() or not mark.is_file():
        return True
    try:
        values = json.loads(mark.read_text())  # may have a metric that is NaN
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{mark}: cannot be read: {error}") from error
    return isinstance(values, dict) and values.get(_COMMIT_KEY) is not None


def _choose(trees: Sequence[_Tree], *, step: int | None) -> list[_Tree]:
    """Returns the trees of the wanted step, or of the newest beside those of none."""
    if step is not None:
        return [tree for tree in trees if tree.step == step]
    newest = max((tree.step for tree in trees if tree.step is not None), default=None)
    return [tree for tree in trees if tree.step in (None, newest)]


def _looks_like_orbax(home: Path) -> bool:
    if home.name == ORBAX_FOLDER:
        return True
    marks = (TREE_FILE, _CHECKPOINT_FILE)
    return any(
        next(home.glob(f"{depth}{mark}"), None) is not None
        for depth in ("", "*/", "*/*/")
        for mark in marks
    )


def _nothing(homes: Sequence[Path]) -> str:
    found = [
        str(path.relative_to(homes[0]))
        for home in homes
        for path in sorted(home.iterdir())
        if path.is_dir()
    ]
    return (
        f"{homes[-1]}: no finished Orbax checkpoint; expected a file {TREE_FILE} in "
        f"it, in one of {', '.join(ITEMS)}, or in one of these in the folder of a step "
        f"such as 10; found {', '.join(map(shown, found[:10])) or 'no folders'}"
    )
