"""Asks by one client after the other: python every.py URL NAME ...

NAME stands for `ask_NAME.py`, which runs in a process of its own. All are tried before
the first that failed is told.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CLIENT_S = 180
OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else it asks for prices first


def is_content(name: str, url: str) -> bool:
    """Whether a client got what it asked for; what it did not get stands above."""
    command = [sys.executable, str(HERE / f"ask_{name}.py"), url]
    environment = {**os.environ, **OFFLINE}
    try:
        done = subprocess.run(command, env=environment, timeout=CLIENT_S, check=False)
    except subprocess.TimeoutExpired as error:
        print(error, file=sys.stderr)
        return False
    return done.returncode == 0


def main(url: str, *names: str) -> int:
    failed = [name for name in names if not is_content(name, url)]
    if failed:
        print(f"not as wanted: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
