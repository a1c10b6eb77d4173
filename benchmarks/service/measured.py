"""A server to be measured, around any engine; what `server.py` starts ends in it."""

import dataclasses
from collections.abc import Iterable

from mell_jax.engine.thread import EngineThread
from mell_jax.serving.address import Addresses
from mell_jax.serving.config import SERVER_LIMITS, ServerConfig
from mell_jax.serving.served_model import ServedModel
from mell_jax.serving.service import run_service


def serve(
    engine: EngineThread, *, names: Iterable[str], frontends: int, most: int | None
) -> str:
    """Serves until SIGTERM, prints the address, and returns why it ended.

    Args:
      engine: not started.
      names: of its models, the default first.
      frontends: this many processes talk to clients; 0: this one does.
      most: a tenant may have this many samples open; None: as many as it wants.
    """
    limits = dataclasses.replace(SERVER_LIMITS, max_tenant_open=most)
    return run_service(
        engine,
        models=[ServedModel(name=name, path="") for name in names],
        config=ServerConfig(port=0, frontends=frontends, drain_s=0.0, limits=limits),
        on_ready=_tell,
    )


def _tell(addresses: Addresses) -> None:
    print(addresses.grpc, flush=True)
