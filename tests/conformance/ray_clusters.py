"""Ray clusters of several nodes on this machine, each node with a raylet of its own.

    nodes        a head, and nodes that a test adds and kills
    autoscaled   a head with Ray's autoscaler, and the nodes that it brings and removes

Both ask for a token, which Ray reads where it is imported. Their files are in a folder
of the test's.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FakeMultiNodeProvider,
)
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.cluster_utils import Cluster

from tests.hosts.processes import children, kill_all, tree, wait_for

STORE_BYTES = 80 * 2**20  # no object is ever in it
START_S = 60.0
_KIND = "node"
_LISTS = (  # that an autoscaler's file must have
    *("initialization_commands", "setup_commands", "head_setup_commands"),
    *("worker_setup_commands", "head_start_ray_commands"),
    *("worker_start_ray_commands", "cluster_synced_files"),
    *("rsync_exclude", "rsync_filter"),
)


@contextmanager
def own_files(*, prefix: str) -> Iterator[Path]:
    """A folder for all of Ray's files, too: where `--ray=auto` looks is the machine's.

    Its name is short, for names of sockets in it are.
    """
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        Path(name, "ray").mkdir()  # Ray expects it where its cluster for tests begins
        os.environ["RAY_TMPDIR"] = name
        yield Path(name)


# A head and nodes.


@contextmanager
def nodes(folder: Path, *, count: int) -> Iterator[tuple[str, list[int]]]:
    """A cluster of a head and nodes of one CPU; its address, and the nodes' raylets."""
    small = {"object_store_memory": STORE_BYTES}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            **{"num_cpus": 0, "include_dashboard": False, **small},
            "temp_dir": str(folder / "ray"),
        },
    )
    try:
        added = [cluster.add_node(num_cpus=1, **small) for _ in range(count)]
        ray.init(address=cluster.address, log_to_driver=False)
        raylets = [one.all_processes[PROCESS_TYPE_RAYLET][0].process for one in added]
        yield cluster.address, [raylet.pid for raylet in raylets]
    finally:
        ray.shutdown()
        cluster.shutdown()


def below(word: str) -> set[int]:
    """The processes below this one with a word in their commands."""
    return {
        pid
        for parent in tree(os.getpid())
        for pid, command in children(parent).items()
        if word in command
    }


def kill_node(raylet: int) -> None:
    """Ends all processes of a node at once, as a machine does that loses its power."""
    found = tree(raylet)
    commands = [command for pid in found for command in children(pid).values()]
    assert any("mell_jax.launch" in command for command in commands), commands
    kill_all(found)


def hosts_on() -> int:
    """Counts the nodes on which a host is, or will be soon."""
    free = ray._private.state.available_resources_per_node()
    total = ray._private.state.total_resources_per_node()
    return sum(
        node["Alive"] and _cpus(total, node) > _cpus(free, node) for node in ray.nodes()
    )


def _cpus(of: dict[str, dict[str, float]], node: dict[str, object]) -> float:
    return of.get(str(node["NodeID"]), {}).get("CPU", 0.0)


# An autoscaler brings nodes, and takes them away.


@contextmanager
def autoscaled(folder: Path, *, most: int) -> Iterator[str]:
    """A cluster with an autoscaler, which has no node but the head yet; its address."""
    address = f"{ray.util.get_node_ip_address()}:{free_port()}"
    file = folder / "autoscaler.json"
    file.write_text(json.dumps(_orders(address, most=most)))
    log = (folder / "log").open("w")
    head = subprocess.Popen(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head"),
            *("--block", f"--port={address.rpartition(':')[2]}", "--num-cpus=0"),
            *(f"--autoscaling-config={file}", "--include-dashboard=false"),
            *(f"--object-store-memory={STORE_BYTES}", f"--temp-dir={folder / 'ray'}"),
            f"--ray-client-server-port={free_port()}",  # nobody asks there
            "--dashboard-agent-listen-port=0",
        ],
        env={
            **os.environ,
            **{"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"},
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        },
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        assert wait_for(lambda: _answers(address), most_s=START_S), "Ray's head"
        ray.init(address=address, log_to_driver=False)
        yield address
    except BaseException:
        print((folder / "log").read_text()[-3000:], file=sys.stderr)
        raise
    finally:
        ray.shutdown()
        kill_all(tree(head.pid))  # told to end, it would wait for nodes that begin
        head.wait()
        log.close()


def alive(address: str) -> int:
    """Counts the nodes beside the head; -1 while Ray and its autoscaler differ."""
    by_ray = sum(node["Alive"] for node in ray.nodes()) - 1
    status = get_cluster_status(address)
    by_autoscaler = sum(
        node.ray_node_type_name == _KIND
        for node in (*status.active_nodes, *status.idle_nodes)
    )
    return by_ray if by_ray == by_autoscaler else -1


def _orders(address: str, *, most: int) -> dict[str, object]:
    """An autoscaler's file: nodes of one CPU, which end after six idle seconds.

    Its provider is Ray's own for tests, by the name of its class: by its type Ray reads
    a file that its wheel does not have. Nodes look for a cluster at Ray's default port,
    and wait there for ever, unless they are told its address.
    """
    provider = {
        "type": "external",
        "module": f"{FakeMultiNodeProvider.__module__}.FakeMultiNodeProvider",
        "gcs_address": address,
        "launch_multiple": True,
        "head_node_id": FAKE_HEAD_NODE_ID,
    }
    node = {"CPU": 1, "object_store_memory": STORE_BYTES}
    kinds = {
        "ray.head.default": {"resources": {"CPU": 0}, "max_workers": 0},
        _KIND: {"resources": node, "min_workers": 0, "max_workers": most},
    }
    return {
        **{name: [] for name in _LISTS},
        **{"cluster_name": "mell", "max_workers": most, "upscaling_speed": most},
        **{"idle_timeout_minutes": 0.1, "file_mounts_sync_continuously": False},
        **{"auth": {}, "docker": {}, "file_mounts": {}, "provider": provider},
        "head_node_type": "ray.head.default",
        "available_node_types": {k: {**v, "node_config": {}} for k, v in kinds.items()},
    }


def free_port() -> int:
    with socket.socket() as finds:
        finds.bind(("", 0))
        port: int = finds.getsockname()[1]
        return port


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as tries:
        return tries.connect_ex((host, int(port))) == 0
