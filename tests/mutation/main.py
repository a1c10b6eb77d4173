"""Asks of a sample of mutants whether the tests notice them; `make mutants`.

    for each module       its tests, unchanged: they pass, and take so much CPU time
    for each mutant       a fork imports it in place of the module, and runs them

No file is written, so the checkout stays as it is. `equivalent.json` holds mutants
that somebody has looked at and that no test can notice, with the reason.
"""

import argparse
import contextlib
import importlib.abc
import importlib.util
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import hypothesis
import numpy  # noqa: F401 - here, so that no fork has to
import pytest

from tests.mutation.mutants import Mutant, find_places, sample
from tests.mutation.tables import TESTS, need_conftest

ROOT = Path(__file__).parents[2]
KNOWN = Path(__file__).with_name("equivalent.json")
SURE = 60.0
"""Times the CPU time of the unchanged tests, in wall seconds: machines are shared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    is_green: bool
    cpu_s: float


class Replaced(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Imports one module from a text in memory."""

    def __init__(self, module: str, *, source: str) -> None:
        self._path = str(ROOT / module)
        self._source = source
        prefix = "" if module.startswith("mell_jax/") else "mell_jax/"
        self._name = (prefix + module).removesuffix(".py").replace("/", ".")

    def find_spec(self, fullname, path, target=None):
        if fullname != self._name:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=self._path)

    def get_filename(self, fullname):
        return self._path

    def get_data(self, path):
        return self._source.encode()

    def path_stats(self, path):
        raise OSError("it is not on the disk")  # so that nothing is cached


def run_tests(
    tests: Sequence[str], *, replaced: Replaced | None, cpu_limit_s: float
) -> Ran:
    """Runs tests in a fork until the first fails."""
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            code = _in_child(tests, replaced=replaced, cpu_limit_s=cpu_limit_s)
        os._exit(code)
    deadline = time.monotonic() + SURE * cpu_limit_s
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)  # it waits for something
            _, status, usage = os.wait4(child, 0)
            break
        time.sleep(0.02)
    code = os.waitstatus_to_exitcode(status)
    wrong = {pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED}
    if code in wrong and replaced is None:
        raise RuntimeError(f"no tests were run of {tests}: mend tables.py")
    return Ran(is_green=code == 0, cpu_s=usage.ru_utime + usage.ru_stime)


def _in_child(
    tests: Sequence[str], *, replaced: Replaced | None, cpu_limit_s: float
) -> int:
    os.chdir(ROOT)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    limit = int(cpu_limit_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    hypothesis.settings.register_profile(
        "mutants",
        deadline=None,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    hypothesis.settings.load_profile("mutants")
    if replaced is not None:
        sys.meta_path.insert(0, replaced)
    options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "--timeout=0"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of hypothesis
    if not need_conftest(tests):
        options.append("--noconftest")
    return int(pytest.main([*options, *tests]))


def is_noticed(mutant: Mutant, *, tests: Sequence[str], cpu_s: float) -> bool:
    replaced = Replaced(mutant.module, source=mutant.source)
    return not run_tests(tests, replaced=replaced, cpu_limit_s=2 + 2 * cpu_s).is_green


def known_equivalents() -> set[tuple[str, str, str]]:
    found = json.loads(KNOWN.read_text())
    return {(each["module"], each["before"], each["after"]) for each in found}


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--mutants", type=int, default=200, help="how many are tried")
    flags.add_argument("--seed", type=int, default=1, help="which ones")
    flags.add_argument("--skip", type=int, default=0, help="tried already")
    flags.add_argument("--modules", nargs="*", default=sorted(TESTS))
    flags.add_argument("--output_json", type=Path, required=True)
    asked = flags.parse_args()
    places = [place for module in asked.modules for place in find_places(ROOT, module)]
    chosen = sample(ROOT, places, count=asked.mutants, seed=asked.seed)
    chosen = chosen[asked.skip :]
    equivalents = known_equivalents()
    counts: Counter[str] = Counter()
    survivors: list[dict[str, object]] = []
    cpu_s: dict[tuple[str, ...], float] = {}
    for number, mutant in enumerate(chosen, 1):
        tests = TESTS[mutant.module]
        if (mutant.module, mutant.before, mutant.after) in equivalents:
            verdict = "equivalent"
        else:
            if tests not in cpu_s:
                ran = run_tests(tests, replaced=None, cpu_limit_s=600)
                if not ran.is_green:
                    raise RuntimeError(f"{tests} fail without any mutant: mend them")
                cpu_s[tests] = ran.cpu_s
            noticed = is_noticed(mutant, tests=tests, cpu_s=cpu_s[tests])
            verdict = "killed" if noticed else "survived"
        counts[verdict] += 1
        if verdict == "survived":
            survivors.append({k: v for k, v in asdict(mutant).items() if k != "source"})
        print(
            f"{number}/{len(chosen)} {verdict}: {mutant.module}:{mutant.line} "
            f"{mutant.operator}: {mutant.after}",
            flush=True,
        )
        report = {
            "seed": asked.seed,
            "places": len(places),
            "sample": number,
            **counts,
            "survivors": survivors,
        }
        asked.output_json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
