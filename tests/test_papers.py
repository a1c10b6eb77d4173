"""What the papers name exists, and every module has its place in WORKSPACE.md."""

import ast
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORKSPACE = ROOT / "WORKSPACE.md"
PAPERS = [WORKSPACE, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("mell_jax", "benchmarks", "tests", "examples", "docs", ".ci")
PATH = re.compile(r"[\w.-]+(/[\w.-]+)*/?")
PATH_SUFFIXES = (".py", ".md", ".json", ".toml", ".proto", ".txt")


@cache
def files() -> frozenset[str]:
    """Every file of the checkout, through the links: "mell_jax/scheduler/ids.py"."""
    found = {path.name for path in ROOT.iterdir() if path.is_file()}
    for folder in FOLDERS:
        for where, _, names in os.walk(ROOT / folder, followlinks=True):
            if "__pycache__" not in where:
                home = Path(where).relative_to(ROOT)
                found |= {(home / name).as_posix() for name in names}
    return frozenset(found)


def modules() -> set[str]:
    """Modules of the package as WORKSPACE.md writes them: "scheduler/ids.py"."""
    return {
        name.removeprefix("mell_jax/")
        for name in files()
        if name.startswith("mell_jax/")
        and name.endswith(".py")
        and not name.endswith(("__init__.py", "_pb2.py", "_pb2_grpc.py"))
    }


def listed_modules(text: str) -> list[str]:
    """Modules in the bullets of "## Modules"; a name without a folder has the last."""
    section = text.partition("\n## Modules\n")[2].partition("\n## ")[0]
    found = []
    for line in section.splitlines():
        folder = ""
        for name in re.findall(r"`([\w/.]+\.py)`", line):
            folder = name.rpartition("/")[0] if "/" in name else folder
            found.append(f"{folder}/{name.rpartition('/')[2]}".lstrip("/"))
    return found


@cache
def trees() -> dict[str, ast.Module]:
    """The syntax tree of every Python file but this one."""
    return {
        name: ast.parse((ROOT / name).read_text())
        for name in files()
        if name.endswith(".py") and name != "tests/test_papers.py"
    }


@cache
def members() -> dict[str, set[str]]:
    """What each class has (fields, methods, attributes of self), by its name."""
    found: dict[str, set[str]] = {}
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).update(_members_of(node))
                for base in node.bases:
                    if isinstance(base, ast.Name):
                        found[node.name].add(f"<{base.id}>")
    return found


def _members_of(node: ast.ClassDef) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child.name
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        elif (
            isinstance(child, ast.Attribute)
            and isinstance(child.ctx, ast.Store)
            and isinstance(child.value, ast.Name)
            and child.value.id == "self"
        ):
            yield child.attr


def has_member(owner: str, name: str) -> bool:
    own = members().get(owner, set())
    bases = [base.strip("<>") for base in own if base.startswith("<")]
    return name in own or any(has_member(base, name) for base in bases)


@cache
def words() -> frozenset[str]:
    """Every name in the code, and every word in its strings that is no docstring."""
    found = {Path(name).stem for name in files()}
    for tree in trees().values():
        found |= _words_of(tree)
    for name in ("Makefile", "pyproject.toml"):
        found |= set(re.findall(r"[\w-]+", (ROOT / name).read_text()))
    for name in files():
        if name.endswith(".proto"):
            found |= set(re.findall(r"\w+", (ROOT / name).read_text()))
    return frozenset(found)


def _words_of(tree: ast.Module) -> set[str]:
    nodes = list(ast.walk(tree))
    prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    found: set[str] = set()
    for node in nodes:
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                found.add(name)
            case ast.keyword(arg=str(name)) | ast.alias(name=name):
                found |= set(name.split("."))
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                found.add(node.name)
            case ast.Constant(value=str(text)) if id(node) not in prose:
                found |= set(re.findall(r"[\w-]+", text))
                found |= set(re.findall(r"\w+", text))
    return found


def trouble_with(name: str) -> str:
    """Why a name in backticks stands for nothing; "" when it does, or is no name."""
    command = _trouble_with_command(name)
    if command is not None:
        return command
    if not re.fullmatch(r"[\w./-]+", name) or name.strip("_.-").isdigit():
        return ""  # maths, a shape, a sentence
    name = name.lstrip("/-")  # a route, a flag
    if "/" in name or name.endswith(PATH_SUFFIXES) or name in ("Makefile",):
        return _trouble_with_path(name)
    owner, _, last = name.rpartition(".")
    owner = owner.rpartition(".")[2]
    if owner in members():
        return "" if has_member(owner, last) else f"{owner} has no {last}"
    unknown = [part for part in name.split(".") if part and part not in words()]
    return f"nothing in the code is called {unknown[0]}" if unknown else ""


def _trouble_with_command(name: str) -> str | None:
    first, _, rest = name.partition(" ")
    if first == "make" and rest:
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        target = rest.split()[0]
        return "" if target in targets else f"the Makefile has no target {target}"
    if name.startswith("python -m "):
        module = rest.split()[1].replace(".", "/")
        places = {f"{module}.py", f"{module}/__main__.py"}
        is_there = places & files() or module.startswith(("pip", "venv", "pytest"))
        return "" if is_there else f"there is no module {module}"
    return "" if rest else None


def _trouble_with_path(name: str) -> str:
    if name.endswith("/"):
        is_there = any(f"/{name}" in f"/{file}" for file in files())
        is_there = is_there or (ROOT / name).is_dir()
    else:
        is_there = any(f"/{file}".endswith(f"/{name}") for file in files())
    return "" if is_there else "no such file"


def names_in(text: str) -> list[str]:
    """What stands in single backticks, without blocks of code."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return re.findall(r"`([^`\n]+)`", prose)


def test_every_module_has_its_place_in_the_workspace() -> None:
    listed, there = listed_modules(WORKSPACE.read_text()), modules()
    assert len(there) > 200  # the walk found them
    missing, gone = sorted(there - set(listed)), sorted(set(listed) - there)
    assert not missing, f"WORKSPACE.md says nothing of {', '.join(missing)}"
    assert not gone, f"WORKSPACE.md lists what is not there: {', '.join(gone)}"
    twice = sorted({name for name in listed if listed.count(name) > 1})
    assert not twice, f"WORKSPACE.md lists twice: {', '.join(twice)}"


def test_the_workspace_fits_in_a_head() -> None:
    lines = WORKSPACE.read_text().splitlines()
    assert len(lines) <= 200, f"WORKSPACE.md has {len(lines)} lines, 200 are allowed"


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: path.name)
def test_every_name_in_backticks_exists(paper: Path) -> None:
    names = names_in(paper.read_text())
    assert len(names) > 5  # the reading found them
    troubles = {name: trouble for name in names if (trouble := trouble_with(name))}
    assert not troubles, "\n".join(
        f"{paper.name}: `{name}`: {trouble}" for name, trouble in troubles.items()
    )


@pytest.mark.parametrize(
    ("name", "trouble"),
    [
        ("scheduler/ids.py", ""),
        ("scheduler/idols.py", "no such file"),
        ("tests/engine/", ""),
        ("tests/engines/", "no such file"),
        ("make serve", ""),
        ("make coffee", "the Makefile has no target coffee"),
        ("python -m benchmarks --help", ""),
        ("python -m benches", "there is no module benches"),
        ("Machine.step", ""),
        ("Machine.stop", "Machine has no stop"),
        ("Reservations.reserve", ""),
        ("RequestId", ""),
        ("RequestIdea", "nothing in the code is called RequestIdea"),
        ("[P, L, 2, K, S, H]", ""),
    ],
)
def test_the_check_tells_what_exists_from_what_does_not(
    name: str, trouble: str
) -> None:
    assert trouble_with(name) == trouble
