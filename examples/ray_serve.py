"""Ray Serve in front of a fleet: `serve run ray_serve:application flags="--model=DIR"`.

The one replica starts `mell-serve --ray=auto`, which takes nodes of the same cluster
for its hosts. It passes requests to the HTTP door of that, and answers back as they
come. Serve adds its proxies and its health checks; batches, moves and scales mell does.
Replicas import this file: its folder is the working directory, or on the Python path.
"""

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from typing import TextIO

import aiohttp  # comes with ray[serve], as Starlette does
from ray import serve
from starlette.requests import Request
from starlette.responses import StreamingResponse

END_S = 60.0
KEPT = ("authorization", "content-type")


@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=4096,  # the fleet has its own bounds
    ray_actor_options={"num_cpus": 1},
    health_check_period_s=5,
)
class Mell:
    """The front end of a fleet.

    Args:
      flags: of `mell-serve`, as one text.
    """

    def __init__(self, flags: str) -> None:
        own = ["--ray=auto", "--host=127.0.0.1", "--port=0", "--http_port=0"]
        self._server = subprocess.Popen(
            [sys.executable, "-m", "mell_jax.launch", *own, *flags.split()],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout is not None
        self._url = _url_in(self._server.stdout)  # there once it serves
        self._session: aiohttp.ClientSession | None = None

    def check_health(self) -> None:
        """Raises if the front end has ended: Serve starts another replica then."""
        if self._server.poll() is not None:
            raise RuntimeError(f"mell-serve has ended ({self._server.returncode})")

    async def __call__(self, request: Request) -> StreamingResponse:
        """Passes a request on, and what comes back."""
        answer = await self._client().request(
            request.method,
            f"{self._url}{request.url.path}",
            params=request.url.query,
            data=await request.body(),
            headers={k: v for k, v in request.headers.items() if k in KEPT},
        )
        return StreamingResponse(
            _body(answer), status_code=answer.status, headers=_type(answer.headers)
        )

    def __del__(self) -> None:
        """Ends the fleet with the replica."""
        self._server.terminate()
        self._server.wait(END_S)

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:  # belongs to the replica's loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
            )
        return self._session


def _url_in(told: TextIO) -> str:
    """Reads where it serves, and has all else told on."""
    for line in told:
        print(line, end="", flush=True)
        if found := re.match(r"(https?://\S+) has /v1", line):
            rest = (told, sys.stdout)
            threading.Thread(target=shutil.copyfileobj, args=rest, daemon=True).start()
            return found[1]
    raise RuntimeError("mell-serve has ended before it served")


async def _body(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """A client that goes away ends this, and so the request in the fleet."""
    async with answer:
        async for piece in answer.content.iter_any():
            yield piece


def _type(headers: Mapping[str, str]) -> dict[str, str]:
    return (
        {"content-type": headers["content-type"]} if "content-type" in headers else {}
    )


def application(args: dict[str, str]) -> serve.Application:
    """Returns what Serve runs; `args` has the flags of `mell-serve`."""
    return Mell.bind(args["flags"])
