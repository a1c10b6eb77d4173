"""A front end that keeps something of each request: what a leak test must notice."""

import sys
from collections.abc import Iterable

from mell_jax.engine.frames import Handle
from mell_jax.frontend import FrontEnd
from mell_jax.serving.processes.child import main

LEAK_BYTES = 4096  # per request

_kept: list[bytes] = []
_forget = FrontEnd._forget


def _keep(self: FrontEnd, request_id: str, handles: Iterable[Handle]) -> None:
    _kept.append(b"x" * LEAK_BYTES)
    _forget(self, request_id, handles)


if __name__ == "__main__":
    FrontEnd._forget = _keep
    sys.exit(main(sys.argv))
