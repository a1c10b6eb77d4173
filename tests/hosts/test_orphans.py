"""A host whose head is gone ends, also while it loads and has nobody to ask."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_host_that_is_loading_ends_with_its_head(tmp_path: Path) -> None:
    given = {"join": "127.0.0.1:9", "host_name": "a", "model": ["demo"]}
    given["compilation_cache_dir"] = str(tmp_path)
    orders = json.dumps({"secret": "00" * 16, "given": given})
    command = [sys.executable, "-m", "mell_jax.launch", "--orders=-"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as host:
        assert host.stdin is not None and host.stderr is not None
        host.stdin.write(orders + "\n")
        host.stdin.flush()
        assert any("compiling: 0 of" in line for line in host.stderr)
        host.stdin.close()  # as a pipe of a head that was killed
        compiled = [line for line in host.stderr if "compiling" in line]
        assert host.wait() == 1
        assert not any(told_all(line) for line in compiled)


def told_all(line: str) -> bool:
    """Tells whether a line of progress says that all is compiled."""
    done, _, wanted = line.partition("compiling: ")[2].split()[:3]
    return done == wanted
