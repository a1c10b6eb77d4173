"""Keeps gRPC's own log out of ours.

gRPC writes what a client says when it leaves (GOAWAY) to standard error as it is, any
number of lines that look like ours. It reads how much to say once, when it is
imported, from the environment and from nowhere else. So programs set it first thing,
and no import does. What the operator has set stays.
"""

import os
from collections.abc import Mapping

_QUIET = {"GRPC_VERBOSITY": "ERROR"}


def quiet_grpc() -> None:
    """Makes gRPC tell errors only; call it in a program's main, before the import."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def quiet_environment() -> Mapping[str, str]:
    """Returns an environment for a process of ours in which gRPC tells errors only."""
    return {**_QUIET, **os.environ}
