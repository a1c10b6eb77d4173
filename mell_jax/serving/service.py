"""A service has its front ends in processes of their own, or in this one."""

from collections.abc import Callable, Sequence

from mell_jax.serving.aborts import Aborts
from mell_jax.serving.address import Addresses
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.loop import run_loop
from mell_jax.serving.observe.progress import LocalEngine
from mell_jax.serving.processes.supervisor import run_fronts
from mell_jax.serving.served_model import ServedModel
from mell_jax.serving.server import run_server


def run_service(
    engine: LocalEngine,
    *,
    models: Sequence[ServedModel],
    config: ServerConfig,
    on_ready: Callable[[Addresses], None],
    aborts: Aborts | None = None,
) -> str:
    """Serves until a signal or the engine's end; call it on the main thread.

    Args:
      engine: not yet started; it is stopped on return.
      models: what clients are told about each model of the engine.
      config: where and how to serve; `frontends` says in how many processes.
      on_ready: called with the addresses once requests are taken.
      aborts: brings what operators order; None for nobody.

    Returns:
      Why service ended, when nobody asked for it; the log has the cause.

    Raises:
      BindError: an address cannot be listened on.
    """
    if config.frontends:
        return run_fronts(
            engine, models=models, config=config, on_ready=on_ready, aborts=aborts
        )
    return run_loop(
        run_server(
            engine, models=models, config=config, on_ready=on_ready, aborts=aborts
        )
    )
