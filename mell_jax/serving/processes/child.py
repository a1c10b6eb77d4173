"""A front end's process runs `python -m mell_jax.serving.processes.child DESCRIPTOR`.

The descriptor is its end of a socket pair. Everything else comes through that; when it
closes the process ends, so that none is left when the engine's process is killed; see
`parent_watch` for one that hangs.
"""

import asyncio
import functools
import gc
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NoReturn

from mell_jax.console import run_and_leave
from mell_jax.serving.loop import run_loop
from mell_jax.serving.observe.logs import Place, set_up_logging
from mell_jax.serving.processes.parent_watch import PATIENCE_S, ParentWatch
from mell_jax.serving.processes.peer_client import PeerClient
from mell_jax.serving.processes.remote import RemoteEngine
from mell_jax.serving.processes.wire import (
    ROUTE_BITS,
    AbortRequests,
    DrainFrontEnd,
    FrontEndFailure,
    FrontEndReady,
    Hurry,
    Pulse,
    Welcome,
    WireError,
)
from mell_jax.serving.served_model import ServedModel
from mell_jax.serving.server import FrontEndIdentity, Server
from mell_jax.text.tokenizer import load_tokenizer


async def serve(sock: socket.socket) -> int:
    """Serves until told to end, or until nobody is there to tell.

    Returns:
      The exit status.
    """
    try:
        remote, welcome = await RemoteEngine.connect(sock)
    except WireError:
        return 1  # its log says why
    try:
        place = Place(f"front end {welcome.number}")
        set_up_logging(
            welcome.config.log_format,
            verbosity=welcome.verbosity,
            process=place.name,
            place=place,
        )
        peer_client = PeerClient(remote.tell, is_alone=welcome.is_alone)
        server = _make_server(remote, welcome, peer_client)
        front_end = server.front_end
        addresses = await server.start()
        gc.collect()
        gc.freeze()  # what is there now stays: later collections skip it
        remote.start(front_end.deliver)
        remote.listen(functools.partial(peer_client.hear, front_end=front_end))
        remote.tell(FrontEndReady(address=addresses.grpc))
        await _obey(remote, server)
    except (OSError, ValueError, RuntimeError) as error:
        remote.tell(FrontEndFailure(message=str(error)))
        return 1
    finally:
        remote.stop()
    return 0


def _make_server(
    remote: RemoteEngine, welcome: Welcome, peer_client: PeerClient
) -> Server:
    return Server(
        remote,
        models=[
            ServedModel(
                name=model.name,
                path=model.path,
                tokenizer_dir=model.tokenizer_dir,
                tokenizer=load_tokenizer(model.tokenizer_dir)
                if model.tokenizer_dir is not None
                else None,
                fingerprint=model.fingerprint,
            )
            for model in welcome.models
        ],
        config=welcome.config,
        place=FrontEndIdentity(
            first_handle=(welcome.number << ROUTE_BITS) + 1,
            peers=peer_client,
            is_port_shared=True,
            server_pid=os.getppid(),
        ),
    )


async def _obey(remote: RemoteEngine, server: Server) -> None:
    """Does as told until the end of service."""
    told, hurry = asyncio.Event(), asyncio.Event()
    obeying = asyncio.ensure_future(
        _follow_orders(remote, server, told=told, hurry=hurry)
    )
    try:
        await server.serve(told=told, hurry=hurry)
    finally:
        obeying.cancel()


async def _follow_orders(
    remote: RemoteEngine, server: Server, *, told: asyncio.Event, hurry: asyncio.Event
) -> NoReturn:
    while True:
        match await remote.orders.get():
            case Pulse(is_ready=is_ready):
                await server.set_ready(is_ready)
            case AbortRequests(request_ids=request_ids):
                server.front_end.abort(request_ids, is_for_others=False)
            case DrainFrontEnd():
                told.set()
            case Hurry():
                hurry.set()
                told.set()


def main(
    argv: Sequence[str],
    *,
    work: Callable[[socket.socket], Coroutine[Any, Any, int]] = serve,
    patience_s: float = PATIENCE_S,
) -> int:
    """Does `work` in an event loop until it ends.

    Args:
      patience_s: see `ParentWatch`.
    """
    # Whoever signals a whole group means the engine's process; it tells us.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sock = socket.socket(fileno=int(argv[1]))
    parent_watch = ParentWatch(sock, patience_s=patience_s)
    try:
        return run_loop(work(sock))
    finally:
        parent_watch.let_go()


if __name__ == "__main__":
    run_and_leave(main)
