"""A fleet on Ray clusters of this machine: python -m tests.conformance.ray_fleet

    node     head and two nodes; the controller is killed, then a node; streams go on
    scale    an autoscaler's nodes: 3; with little to do: 1; under load: 2

Streams run all the time, and get the tokens that they get when nothing happens.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import final

from tests.conformance.ray_clusters import (
    alive,
    autoscaled,
    below,
    hosts_on,
    kill_node,
    nodes,
    own_files,
)
from tests.conformance.reaped import reaped
from tests.hosts.clients import Got, Wave, bodies, fetch, stream
from tests.hosts.processes import kill_all, wait_for

START_S, CHANGE_S, END_S = 300.0, 240.0, 60.0
ROWS = 4  # of one host: so many samples at once
MANY = 7  # requests, of eight samples: what two hosts take at once
FEW = 2  # that leave most of one host free
TOKENS = 150
CONTROLLER = "ray::ControllerActor"
_SETTINGS = f"""
[engine]
model = ["demo"]
max_rows = {ROWS}
token_budget = 32
decode_rows = [{ROWS}]
kv_pages = 80
compilation_cache_dir = "CACHE"
[server]
http_unix_socket = "FOLDER/http"
unix_socket = "FOLDER/grpc"
drain_s = 10.0
[fleet]
epoch_s = 1.0
[hosts]
ray_idle_s = IDLE
"""


@contextmanager
def served(
    folder: Path, *, cache: Path, address: str, hosts: int, idle_s: float
) -> Iterator[Path]:
    """Serves the demo model on a Ray cluster; the socket of its HTTP door."""
    folder.mkdir()
    http, settings = folder / "http", folder / "mell.toml"
    told = _SETTINGS.replace("FOLDER", str(folder)).replace("CACHE", str(cache))
    settings.write_text(told.replace("IDLE", str(idle_s)))
    words = ("--mesh=1x1", "--cpu_devices=1", f"--config={settings}")
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "mell_jax.launch", *words),
                *(f"--ray={address}", f"--ray_hosts={hosts}"),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            until("it serves", lambda: is_ready(http), most_s=START_S)
            yield http
            server.send_signal(signal.SIGTERM)
            status = server.wait(END_S)
            assert status == 0, f"the server ended with status {status}"
            until("its hosts are gone", lambda: hosts_on() == 0)
        except BaseException:
            print((folder / "log").read_text()[-8000:], file=sys.stderr)
            raise
        finally:
            server.kill()
            server.wait()


def is_ready(http: Path) -> bool:
    try:
        return '"data"' in fetch(http, "/v1/models")
    except OSError:
        return False


def until(what: str, is_so: Callable[[], object], *, most_s: float = CHANGE_S) -> None:
    """Waits for something, and says how long that took."""
    start_s = time.monotonic()
    assert wait_for(lambda: bool(is_so()), most_s=most_s), (
        f"not within {most_s:.0f} s: {what}"
    )
    print(f"{what}: {time.monotonic() - start_s:.1f} s", flush=True)


def running(http: Path) -> int:
    """Counts the samples that hosts compute."""
    return sum(
        int(float(line.split()[-1]))
        for line in fetch(http, "/metrics").splitlines()
        if line.startswith("mell:num_requests_running")
    )


def ask(http: Path, count: int) -> list[tuple[object, ...]]:
    """What so many clients get at once, when nothing happens."""
    came = Wave(http, bodies(count, tokens=TOKENS)).end()
    assert all(got.is_whole and not got.error for got in came), came
    return [got.answer for got in came]


@final
class Load:
    """So many clients ask, each again as soon as it is answered, until `end`."""

    def __init__(self, http: Path, count: int) -> None:
        self._http = http
        self._is_over = threading.Event()
        self._got: list[list[Got]] = [[] for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._ask, args=one, daemon=True)
            for one in zip(self._got, bodies(count, tokens=TOKENS), strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, got: list[Got], body: dict[str, object]) -> None:
        while not self._is_over.is_set():
            got.append(stream(self._http, body))
            if got[-1].error:
                return

    def end(self) -> None:
        """Asks no more, and waits until all is answered."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def compare(self, wanted: list[tuple[object, ...]]) -> None:
        """Holds all that came against what comes when nothing happens."""
        for each, expected in zip(self._got, wanted, strict=False):
            assert each, "a client has never been answered"
            for got in each:
                assert got.answer == expected, f"{got.answer} instead of {expected}"
        every = [got for each in self._got for got in each]
        gap_s = max(got.gap_s for got in every)
        print(f"{len(every)} streams are as they were, longest gap {gap_s:.1f} s")


# A node is lost.


def lose_a_node(folder: Path, *, cache: Path) -> None:
    fleet = folder / "fleet"
    with (
        nodes(folder, count=2) as (address, raylets),
        served(fleet, cache=cache, address=address, hosts=2, idle_s=300.0) as http,
    ):
        until("two hosts have nodes", lambda: hosts_on() == 2)
        wanted = ask(http, MANY)
        until("nothing runs", lambda: running(http) == 0)
        load = Load(http, MANY)
        until("both serve", lambda: running(http) > ROWS)
        kill_all(before := below(CONTROLLER))
        until("Ray has begun the controller again", lambda: below(CONTROLLER) - before)
        until("both serve", lambda: running(http) > ROWS)
        kill_node(raylets[0])
        until("Ray has lost a node", lambda: hosts_on() == 1)
        load.end()
        load.compare(wanted)


# An autoscaler brings nodes, and takes them away.


@final
class Watch:
    """It writes down how many nodes there are, whenever that changes."""

    def __init__(self, address: str) -> None:
        self.seen: list[int] = []
        self._address = address
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def now(self) -> int:
        return self.seen[-1] if self.seen else 0

    @property
    def since_three(self) -> list[int]:
        return self.seen[self.seen.index(3) :]

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(0.2):
            count = alive(self._address)
            if count >= 0 and self.seen[-1:] != [count]:
                self.seen.append(count)


def scale(folder: Path, *, cache: Path) -> None:
    fleet = folder / "fleet"
    with autoscaled(folder, most=3) as address, closing(Watch(address)) as watch:
        with served(fleet, cache=cache, address=address, hosts=3, idle_s=5.0) as http:
            few = Load(http, FEW)
            until("three nodes came", lambda: 3 in watch.seen)
            until("one is left", lambda: watch.now == 1)
            few.end()
            until("nothing runs", lambda: running(http) == 0)
            many = Load(http, MANY)
            until("load brought a second", lambda: watch.now == 2)
            until("both serve", lambda: running(http) > ROWS)
            watch.close()
            many.end()
            wanted = ask(http, MANY)
            few.compare(wanted)
            many.compare(wanted)
        print(f"nodes: {watch.seen}")
        assert watch.since_three in ([3, 2, 1, 2], [3, 1, 2])


def main() -> int:
    parts = {"node": lose_a_node, "scale": scale}
    with own_files(prefix="mr") as folder, reaped():
        for name in sys.argv[1:] or parts:
            start_s = time.monotonic()
            own = folder / name
            own.mkdir()
            parts[name](own, cache=folder / "cache")
            print(f"{name}: {time.monotonic() - start_s:.1f} s in all", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
