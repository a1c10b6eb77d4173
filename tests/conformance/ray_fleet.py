"""A fleet on Ray clusters of this machine: python -m tests.conformance.ray_fleet

    head and two nodes     serve; a node is killed; streams go on, with the same tokens
    an autoscaler's nodes  3 hosts; left alone: 1; under load: 2; and as many nodes

Both clusters ask for a token. Each node is a raylet of its own.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FakeMultiNodeProvider,
)
from ray.cluster_utils import Cluster

from tests.hosts.clients import Wave, bodies, fetch
from tests.hosts.processes import kill_all, tree, wait_for

STORE_BYTES = 80 * 2**20  # no object is ever in it
SMALL = {"object_store_memory": STORE_BYTES}
START_S, CHANGE_S, END_S = 240.0, 120.0, 40.0
ROWS = 4  # of one host: so many requests at once
_SETTINGS = """
[engine]
model = ["demo"]
max_rows = 4
token_budget = 32
decode_rows = [4]
kv_pages = 80
compilation_cache_dir = "{cache}"
[server]
http_unix_socket = "{folder}/http"
unix_socket = "{folder}/grpc"
drain_s = 10.0
[fleet]
epoch_s = 1.0
[hosts]
ray_idle_s = 5.0
"""
_LISTS = (  # that an autoscaler's file must have
    *("initialization_commands", "setup_commands", "head_setup_commands"),
    *("worker_setup_commands", "head_start_ray_commands"),
    *("worker_start_ray_commands", "cluster_synced_files"),
    *("rsync_exclude", "rsync_filter"),
)


@contextmanager
def served(folder: Path, *, cache: Path, address: str, hosts: int) -> Iterator[Path]:
    """Serves the demo model on a Ray cluster; the socket of its HTTP door."""
    folder.mkdir()
    http, settings = folder / "http", folder / "mell.toml"
    settings.write_text(_SETTINGS.format(folder=folder, cache=cache))
    words = ("--mesh=1x1", "--cpu_devices=1", "--verbose", f"--config={settings}")
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
        except BaseException:
            print((folder / "log").read_text()[-8000:], file=sys.stderr)
            raise
        finally:
            kill_all(tree(server.pid))
            server.wait()


def is_ready(http: Path) -> bool:
    try:
        return '"data"' in fetch(http, "/v1/models")
    except OSError:
        return False


def until(what: str, is_so: Callable[[], bool], *, most_s: float = CHANGE_S) -> None:
    """Waits for something, and says how long that took."""
    start_s = time.monotonic()
    assert wait_for(is_so, most_s=most_s), f"not within {most_s:.0f} s: {what}"
    print(f"{what}: {time.monotonic() - start_s:.1f} s", flush=True)


def hosts_on() -> list[str]:
    """The nodes on which a host is, or will be soon."""
    return [
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and is_taken(node["NodeID"])
    ]


def is_taken(node: str) -> bool:
    free = ray._private.state.available_resources_per_node().get(node, {})
    total = ray._private.state.total_resources_per_node().get(node, {})
    return total.get("CPU", 0) > free.get("CPU", 0)


def ask(http: Path, count: int, *, tokens: int) -> list[tuple[object, ...]]:
    """What so many clients get at once; all of it, and no error."""
    came = Wave(http, bodies(count, tokens=tokens)).end()
    assert all(got.is_whole and not got.error for got in came), came
    return [got.answer for got in came]


# A node is lost.


def lose_a_node(folder: Path, *, cache: Path) -> None:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, **SMALL},
    )
    try:
        nodes = [cluster.add_node(num_cpus=1, **SMALL) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False)
        with served(folder, cache=cache, address=cluster.address, hosts=2) as http:
            until("two hosts have nodes", lambda: len(hosts_on()) == 2)
            until("both serve", lambda: both_compute(http))
            wanted = ask(http, 2 * ROWS, tokens=100)
            wave = Wave(http, bodies(2 * ROWS, tokens=100))
            time.sleep(1.0)
            start_s = time.monotonic()
            cluster.remove_node(nodes[0], allow_graceful=False)
            came = wave.end()
            assert [got.answer for got in came] == wanted, "tokens differ"
            took_s, gap_s = time.monotonic() - start_s, max(got.gap_s for got in came)
            print(f"a node was killed: {took_s:.1f} s more, longest gap {gap_s:.1f} s")
    finally:
        ray.shutdown()
        cluster.shutdown()


def both_compute(http: Path) -> bool:
    """Tells whether as many run at once as two hosts take."""
    wave = Wave(http, bodies(2 * ROWS, tokens=60))
    most = 0
    while not wave.is_over:
        most = max(most, running(http))
        time.sleep(0.1)
    wave.end()
    return most > ROWS


def running(http: Path) -> int:
    return sum(
        int(float(line.split()[-1]))
        for line in fetch(http, "/metrics").splitlines()
        if line.startswith("mell:num_requests_running")
    )


# An autoscaler brings nodes, and takes them away.


def scaled(address: str) -> dict[str, object]:
    """An autoscaler's file: nodes of one CPU, which end after six idle seconds.

    Its provider is Ray's own for tests, by the name of its class: by its type Ray reads
    a file that its wheel does not have. Nodes look for a cluster at Ray's default port,
    and wait there for ever, unless they are told its address.
    """
    kind = {"node_config": {}, "min_workers": 0}
    return {
        **{name: [] for name in _LISTS},
        **{"cluster_name": "mell", "max_workers": 3, "idle_timeout_minutes": 0.1},
        "upscaling_speed": 3.0,
        **{"auth": {}, "docker": {}, "file_mounts": {}},
        "file_mounts_sync_continuously": False,
        "provider": {
            "type": "external",
            "module": f"{FakeMultiNodeProvider.__module__}.FakeMultiNodeProvider",
            "gcs_address": address,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {
                "resources": {"CPU": 0},
                "node_config": {},
                "max_workers": 0,
            },
            "node": {
                **kind,
                "resources": {"CPU": 1, "object_store_memory": STORE_BYTES},
                "max_workers": 3,
            },
        },
    }


@contextmanager
def autoscaled(folder: Path) -> Iterator[str]:
    """A cluster with an autoscaler; its address."""
    here, port = ray.util.get_node_ip_address(), free_port()
    file = folder / "autoscaler.json"
    file.write_text(json.dumps(scaled(f"{here}:{port}")))
    head = subprocess.Popen(
        [
            *(
                sys.executable,
                "-m",
                "ray.scripts.scripts",
                "start",
                "--head",
                "--block",
            ),
            *(f"--port={port}", "--num-cpus=0", f"--autoscaling-config={file}"),
            *("--include-dashboard=false", f"--object-store-memory={STORE_BYTES}"),
        ],
        env={
            **os.environ,
            **{"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"},
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        },
        stdout=(folder / "ray.log").open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        until("a Ray cluster is there", lambda: answers(here, port), most_s=60.0)
        ray.init(address=f"{here}:{port}", log_to_driver=False)
        yield f"{here}:{port}"
    except BaseException:
        print((folder / "ray.log").read_text()[-3000:], file=sys.stderr)
        raise
    finally:
        ray.shutdown()
        all_of_it = tree(head.pid)
        head.terminate()
        wait_for(lambda: head.poll() is not None, most_s=END_S)
        kill_all(all_of_it)
        head.wait()


def free_port() -> int:
    with socket.socket() as finds:
        finds.bind(("", 0))
        port: int = finds.getsockname()[1]
        return port


def answers(host: str, port: int) -> bool:
    with socket.socket() as tries:
        return tries.connect_ex((host, port)) == 0


def nodes_alive() -> int:
    """How many nodes there are beside the head."""
    return sum(node["Alive"] for node in ray.nodes()) - 1


def scale(folder: Path, *, cache: Path) -> None:
    folder.mkdir()
    with (
        autoscaled(folder) as address,
        served(folder / "fleet", cache=cache, address=address, hosts=3) as http,
    ):
        until("three nodes came", lambda: nodes_alive() == 3)
        wanted = ask(http, 2 * ROWS, tokens=100)
        until("one is left", lambda: nodes_alive() == 1)
        with load(http):
            until("load brought a second", lambda: len(hosts_on()) == 2)
            until("both serve", lambda: running(http) > ROWS)
        assert ask(http, 2 * ROWS, tokens=100) == wanted, "tokens differ"


@contextmanager
def load(http: Path) -> Iterator[None]:
    """Twice as many clients as one host takes, again and again."""
    is_over = threading.Event()

    def ask_on() -> None:
        while not is_over.is_set():
            ask(http, 2 * ROWS, tokens=100)

    asks = threading.Thread(target=ask_on)
    asks.start()
    try:
        yield
    finally:
        is_over.set()
        asks.join()


def main() -> int:
    assert os.environ.get("RAY_AUTH_MODE") == "token", (
        "Ray reads it when it is imported"
    )
    parts = {"node": lose_a_node, "scale": scale}
    with tempfile.TemporaryDirectory(prefix="mr") as folder:
        for name in sys.argv[1:] or parts:
            start_s = time.monotonic()
            parts[name](Path(folder, name), cache=Path(folder, "cache"))
            print(f"{name}: {time.monotonic() - start_s:.1f} s in all", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
