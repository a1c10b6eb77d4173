"""A fleet of real processes, as `mell-serve --hosts=FILE` starts it.

    head, its front end, controller, hosts a and b     the head's network
    host c                                             a network of its own, by --join

Networks of their own need root and `ip`; without them host c has the machine's, too.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

from tests.hosts.clients import Door, fetch, stream
from tests.hosts.processes import children, kill_all, living, tree, wait_for

START_S = 400.0  # three hosts compile, on a machine that others use
OPERATE_S = 120.0  # ten calls, of which each may take long
_INSTANCES = ("--mesh=2x1", "--cpu_devices=2")
_HEAD = """
[engine]
model = ["demo"]
max_rows = 16
token_budget = 64
decode_rows = [16]
kv_pages = 160
compilation_cache_dir = "{cache}"
[server]
{doors}
frontends = {frontends}
admin_port = 0
drain_s = 20.0
[fleet]
policy = "load_balance"
parking = "pool"
[hosts]
fleet_address = "{address}"
fleet_secret_file = "{folder}/secret"
beat_s = 0.2
"""
_FILES = """unix_socket = "{folder}/grpc"
http_unix_socket = "{folder}/http\""""
_PORTS = """port = 0
http_port = 0"""  # several processes can listen there
_JOINED = """
[engine]
model = ["demo"]
max_rows = 16
token_budget = 64
decode_rows = [16]
kv_pages = 160
compilation_cache_dir = "{cache}"
[server]
drain_s = 20.0
[hosts]
host_name = "c"
fleet_address = "{address}"
fleet_secret_file = "{folder}/secret"
beat_s = 0.2
"""


def has_networks() -> bool:
    """Tells whether processes can be given networks of their own."""
    return (
        os.geteuid() == 0
        and all(shutil.which(name) for name in ("ip", "tc"))
        and subprocess.run(["unshare", "-n", "true"], check=False).returncode == 0
    )


@final
class Networks:
    """Two networks with a cable between them, which can be pulled and slowed down."""

    def __init__(self) -> None:
        tag = f"mell{secrets.token_hex(3)}"
        self.head, self.far = f"{tag}h", f"{tag}f"
        self._cable = f"{tag}c"

    def __enter__(self) -> "Networks":
        for name in (self.head, self.far):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        far = ("peer", "name", "far", "netns", self.far)
        _ip("link", "add", self._cable, "netns", self.head, "type", "veth", *far)
        _ip("-n", self.head, "addr", "add", "10.77.0.1/24", "dev", self._cable)
        _ip("-n", self.far, "addr", "add", "10.77.0.2/24", "dev", "far")
        self.plug()
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self.head, self.far):
            _ip("netns", "del", name)

    def pull(self) -> None:
        """Cuts the cable: packets are lost, and nobody is told."""
        _ip("-n", self.far, "link", "set", "far", "down")

    def plug(self) -> None:
        """Joins it again."""
        _ip("-n", self.head, "link", "set", self._cable, "up")
        _ip("-n", self.far, "link", "set", "far", "up")

    def slow(self, *words: str) -> bool:
        """Slows it down, as `tc` has it; tells whether this machine's kernel can."""
        for space, device in self._ends():
            tc = ["tc", "-n", space, "qdisc", "replace", "dev", device, "root"]
            if subprocess.run([*tc, *words], check=False).returncode:
                return False
        return True

    def hasten(self) -> None:
        """Makes it as fast as it was."""
        for space, device in self._ends():
            tc = ["tc", "-n", space, "qdisc", "replace", "dev", device, "root"]
            subprocess.run([*tc, "pfifo"], check=True)

    def _ends(self) -> tuple[tuple[str, str], ...]:
        return (self.head, self._cable), (self.far, "far")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@final
class RealFleet:
    """The fleet; `log` is what all of its processes write.

    Args:
      folder: of its files.
      networks: that it is in; None: the machine's.
      cache: keeps what is compiled.
      frontends: processes that talk to clients, by ports of the network if several.
    """

    def __init__(
        self,
        folder: Path,
        *,
        networks: Networks | None,
        cache: Path,
        frontends: int = 1,
        hosts: Sequence[str] = ("a", "b"),
    ) -> None:
        self.log = folder / "log"
        self.networks = networks
        self._has_ports = frontends > 1
        self._folder = folder
        self._seen: set[int] = set()
        self.head_address = f"{'10.77.0.1' if networks else '127.0.0.1'}:0"
        far = f"{'10.77.0.2' if networks else '127.0.0.1'}:0"
        values = {"folder": folder, "cache": cache, "frontends": frontends}
        doors = _PORTS if self._has_ports else _FILES.format(folder=folder)
        head = _HEAD.format(address=self.head_address, doors=doors, **values)
        (folder / "head.toml").write_text(head)
        (folder / "c.toml").write_text(_JOINED.format(address=far, **values))
        (folder / "hosts").write_text("".join(map(self._line, hosts)))
        secret = folder / "secret"
        secret.write_bytes(secrets.token_bytes(32))
        secret.chmod(0o600)
        self.head = self._start(
            networks.head if networks else None,
            f"--hosts={folder / 'hosts'}",
            f"--config={folder / 'head.toml'}",
        )
        self._far: subprocess.Popen[bytes] | None = None

    def _line(self, name: str) -> str:
        """Returns the line of a host, whose file of settings shows who it is."""
        own = self._folder / f"{name}.toml"
        own.write_text("")
        return f"{name} local --config={own} {' '.join(_INSTANCES)}\n"

    def _start(self, network: str | None, *flags: str) -> "subprocess.Popen[bytes]":
        where = ["ip", "netns", "exec", network] if network else []
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*where, sys.executable, "-m", "mell_jax.launch", *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    # What there is.

    @property
    def http(self) -> Door:
        """Returns where its front ends answer HTTP, once they do."""
        if self._has_ports:
            return _said(self.text(), after="http://", before=" has /v1")
        return self._folder / "http"

    @property
    def grpc(self) -> str:
        """Returns where its front ends answer gRPC, once they do."""
        return _said(self.text(), after=" served at ", before=", ")

    def text(self) -> str:
        """Returns what was written to the log so far."""
        return self.log.read_text(errors="replace")

    def pids(self) -> dict[str, int]:
        """Returns the processes that live, by name."""
        found = {"head": self.head.pid}
        for pid, command in children(self.head.pid).items():
            if "controller_main" in command:
                found["controller"] = pid
            elif "--orders" in command:
                found[Path(command.split("--config=")[1].split()[0]).stem] = pid
            elif "processes.child" in command:
                found["front end"] = min(pid, found.get("front end", pid))
        if self._far is not None and self._far.poll() is None:
            found["c"] = self._far.pid
        self._seen |= tree(self.head.pid) | set(found.values())
        return found

    def of_kind(self, word: str) -> set[int]:
        """Returns the head's children in whose commands a word is."""
        found = children(self.head.pid)
        return {pid for pid, command in found.items() if word in command}

    def left(self) -> set[int]:
        """Returns processes that were the fleet's and live."""
        return living(self._seen)

    def wait_serving(self, *, far: bool) -> None:
        """Waits until the fleet serves, with host c if that is wanted."""
        assert wait_for(self._is_starting_well, most_s=START_S), self.text()[-4000:]
        if far:
            self.join_far()

    def _is_starting_well(self) -> bool:
        """Tells whether it serves; that nothing has ended yet is checked."""
        assert "has ended" not in self.text(), self.text()[-4000:]
        return self.is_up()

    def is_up(self) -> bool:
        """Tells whether it serves."""
        assert self.head.poll() is None, self.text()[-4000:]
        if " has /v1" not in self.text():
            return False
        short = {"model": "demo", "prompt": "A", "max_tokens": 1, "stream": True}
        return not stream(self.http, short).error

    def join_far(self) -> None:
        """Starts host c, and waits until it has joined."""
        port = self._controller_port()
        before = self.text().count("host c is at")
        self._far = self._start(
            self.networks.far if self.networks else None,
            f"--join={self.head_address.rpartition(':')[0]}:{port}",
            f"--config={self._folder / 'c.toml'}",
            *_INSTANCES,
        )
        assert wait_for(
            lambda: self.text().count("host c is at") > before, most_s=START_S
        ), self.text()[-4000:]

    def _controller_port(self) -> int:
        """Returns where the controller listens, as hosts say."""
        return int(
            self.text().rpartition("of the fleet at ")[2].split()[0].split(":")[1]
        )

    def wait_whole(self, *names: str) -> None:
        """Waits until these processes live, and hosts among them have joined."""
        assert wait_for(lambda: set(names) <= set(self.pids()), most_s=START_S), (
            f"{names}, {self.pids()}\n{self.text()[-4000:]}"
        )

    def wait_answering(self) -> None:
        """Waits until a front end answers, after another one was killed."""
        assert wait_for(self.is_up, most_s=60.0), self.text()[-4000:]

    def is_at_rest(self) -> bool:
        """Tells whether nothing runs and no page is used."""
        lines = fetch(self.http, "/metrics").splitlines()
        names = ("mell:num_requests_running{", "mell:kv_cache_usage_perc{")
        values = [float(x.split()[-1]) for x in lines if x.startswith(names)]
        return len(values) == len(names) and not any(values)

    # What happens to it.

    def hit(self, name: str, *, with_signal: int) -> int:
        """Sends a process a signal; returns its number."""
        pid = self.pids()[name]
        os.kill(pid, with_signal)
        return pid

    def operate(self, *, seed: int, seconds: float) -> str:
        """Has an operator do something for so long; returns what was done.

        Raises:
          subprocess.CalledProcessError: something failed.
        """
        address = _said(self.text(), after="v1.Admin is at ", before=",")
        where = self.networks.head if self.networks else None
        return subprocess.run(
            [
                *(["ip", "netns", "exec", where] if where else []),
                *(sys.executable, "-m", "tests.hosts.operate"),
                *(address, str(seed), str(seconds)),
            ],
            check=True,
            capture_output=True,
            text=True,
            timeout=OPERATE_S + seconds,
        ).stdout.strip()

    def end(self) -> set[int]:
        """Ends it all in order; returns processes that are left."""
        self.pids()
        for process in filter(None, [self._far, self.head]):
            process.send_signal(signal.SIGTERM)
        for process in filter(None, [self._far, self.head]):
            process.wait(60.0)
        wait_for(lambda: not self.left(), most_s=20.0)
        return self.left()

    def abandon(self) -> None:
        """Ends whatever is left, after a test that failed."""
        if self.head.poll() is None:
            self.pids()
        kill_all(self._seen)
        for process in filter(None, [self._far, self.head]):
            process.kill()
            process.wait()


def _said(text: str, *, after: str, before: str) -> str:
    """Returns what stands in a text between two others."""
    return text.partition(after)[2].partition(before)[0]


@contextlib.contextmanager
def real_fleet(
    folder: Path, *, cache: Path, frontends: int = 1, far: bool = True
) -> Iterator[RealFleet]:
    """Yields a fleet that serves; hosts a and b are the head's, c has joined.

    It has networks of its own where that can be, and only one front end has: ports of
    such a network are not those of this process.
    """
    with contextlib.ExitStack() as stack:
        has_own = frontends == 1 and has_networks()
        networks = stack.enter_context(Networks()) if has_own else None
        fleet = RealFleet(folder, networks=networks, cache=cache, frontends=frontends)
        stack.callback(fleet.abandon)
        fleet.wait_serving(far=far)
        yield fleet
