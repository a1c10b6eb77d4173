"""What `mell-top` shows of metrics that stand here."""

import io
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from mell_jax import top

ROOT = Path(__file__).parents[1]
FLEET = """\
mell:serving 1.0
mell:prompt_tokens_total{model_name="demo"} 100.0
mell:generation_tokens_total{model_name="demo"} 1000.0
mell:num_requests_running{model_name="demo"} 14.0
mell:num_requests_waiting{model_name="demo"} 3.0
mell:devices 4.0
mell:devices_in_use 2.0
mell:devices_lower_bound{model_name="demo"} 1.0
mell:instance_state{device="0",model_name="demo",state="serving"} 1.0
mell:instance_state{device="0",model_name="demo",state="parked"} 0.0
mell:instance_state{device="1",model_name="demo",state="serving"} 1.0
mell:instance_state{device="2",model_name="",state="parked"} 1.0
mell:instance_state{device="10",model_name="",state="lost"} 1.0
mell:instance_pages{device="0",kind="used",model_name="demo"} 50.0
mell:instance_pages{device="0",kind="reserved",model_name="demo"} 25.0
mell:instance_pages{device="0",kind="free",model_name="demo"} 25.0
mell:instance_pages{device="1",kind="used",model_name="demo"} 100.0
mell:instance_pages{device="1",kind="reserved",model_name="demo"} 0.0
mell:instance_pages{device="1",kind="free",model_name="demo"} 0.0
mell:instance_requests_running{device="0",model_name="demo"} 5.0
mell:instance_requests_running{device="1",model_name="demo"} 9.0
mell:instance_requests_paused{device="1",model_name="demo"} 2.0
mell:requests_moving{mode="kv",source="1",stage="copying",target="0"} 2.0
mell:requests_moving{mode="",source="0",stage="waiting",target="1"} 1.0
mell:migrations_between_total{source="0",target="1"} 4.0
mell:migrations_between_total{source="1",target="0"} 7.0
mell:migrations_total{mode="kv",outcome="committed",reason="urgent"} 10.0
mell:migrations_total{mode="tokens",outcome="committed",reason="urgent"} 1.0
mell:migrations_total{mode="kv",outcome="aborted",reason="urgent"} 4.0
mell:migration_bytes_total 4000000.0
# TYPE mell:migration_stall_seconds histogram
mell:migration_stall_seconds_bucket{le="0.01"} 0.0
mell:migration_stall_seconds_bucket{le="0.03"} 10.0
mell:migration_stall_seconds_bucket{le="+Inf"} 10.0
# TYPE mell:migration_downtime_steps histogram
mell:migration_downtime_steps_bucket{le="1.0"} 0.0
mell:migration_downtime_steps_bucket{le="2.0"} 10.0
mell:migration_downtime_steps_bucket{le="+Inf"} 10.0
# TYPE mell:time_to_first_token_seconds histogram
mell:time_to_first_token_seconds_bucket{le="0.1",model_name="demo"} 4.0
mell:time_to_first_token_seconds_bucket{le="+Inf",model_name="demo"} 4.0
"""
LATER = (
    FLEET.replace(
        'generation_tokens_total{model_name="demo"} 1000.0',
        'generation_tokens_total{model_name="demo"} 1300.0',
    )
    .replace(
        '"kv",outcome="committed",reason="urgent"} 10.0',
        '"kv",outcome="committed",reason="urgent"} 15.0',
    )
    .replace('target="0"} 7.0', 'target="0"} 12.0')
    .replace("migration_bytes_total 4000000.0", "migration_bytes_total 9000000.0")
)
SINGLE = """\
mell:serving 0.0
mell:prompt_tokens_total{model_name="demo"} 100.0
mell:generation_tokens_total{model_name="demo"} 1000.0
mell:num_requests_running{model_name="demo"} 14.0
mell:num_requests_waiting{model_name="demo"} 3.0
"""


def shown(text: str, *, before: str | None = None, trouble: str = "") -> list[str]:
    """Lines of a terminal of 80 columns, 2 s after `before`."""
    console = Console(file=io.StringIO(), width=80)
    picture = top.picture(
        top.parse(text),
        before=None if before is None else top.parse(before),
        elapsed_s=2.0,
        trouble=trouble,
    )
    with console.capture() as capture:
        console.print(picture)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_fleet_at_work() -> None:
    assert shown(LATER, before=FLEET) == [
        "mell-top  demo  2 of 4 devices in use, lower bound 1",
        " device  █ used ▒ reserved · free        used  resv  free  rows  wait  stop",
        "      0  ███████████████▒▒▒▒▒▒▒········    50    25    25     5     0     0",
        "      1  ██████████████████████████████   100     0     0     9     0     2",
        "      2  parked",
        "     10  lost",
        "moving  0→1 1 request waiting, 1→0 2 kv copying",
        "moved   1→0 5",
        "requests  14 running, 3 waiting, 150.0 tokens/s out, 0.0 in",
        "latency   first token 50 / 99 ms, between tokens - / - ms",
        "moves/s   2.5 kv, 0.0 tokens, 2.5 MB/s, 16 so far, 4 called off",
        "downtime  20 / 29.8 ms, 2 / 2 steps (p50 / p99, since the start)",
    ]


def test_a_first_look_knows_no_rates() -> None:
    lines = shown(FLEET)
    assert "requests  14 running, 3 waiting, - tokens/s out, - in" in lines
    assert "moves/s   - kv, - tokens, - MB/s, 11 so far, 4 called off" in lines


def test_a_server_that_was_started_anew_has_no_negative_rates() -> None:
    lines = shown(FLEET, before=LATER)
    assert "requests  14 running, 3 waiting, 0.0 tokens/s out, 0.0 in" in lines


def test_a_server_of_one_device_has_no_bars() -> None:
    assert shown(SINGLE) == [
        "mell-top  demo  takes no requests",
        "requests  14 running, 3 waiting, - tokens/s out, - in",
        "latency   first token - / - ms, between tokens - / - ms",
    ]


def test_a_server_that_is_gone_is_shown_above_what_was_known() -> None:
    lines = shown(FLEET, trouble="no metrics at all; waiting for it")
    assert lines[1] == "no metrics at all; waiting for it"
    assert "     10  lost" in lines


def test_many_moves_take_few_lines() -> None:
    moving = "".join(
        f'mell:requests_moving{{mode="kv",source="0",stage="copying",target="{n}"}} 1\n'
        for n in range(1, 40)
    )
    lines = shown(FLEET + moving)
    assert any("and 33 more" in line for line in lines)
    assert len(lines) <= 17


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1.0), (0.375, 1.5), (0.75, 2.0), (0.99, 2.0)]
)
def test_quantiles_are_linear_within_a_bucket(share: float, value: float) -> None:
    numbers = top.parse(
        "# TYPE mell:h histogram\n"
        'mell:h_bucket{le="1.0"} 0.0\n'
        'mell:h_bucket{le="2.0"} 3.0\n'
        'mell:h_bucket{le="+Inf"} 4.0\n'
    )
    assert numbers.quantile("h", share) == pytest.approx(value)
    assert math.isnan(numbers.quantile("other", share))


@pytest.mark.parametrize("text", ["<html>no", "other_total 1.0\n", ""])
def test_what_is_no_metrics_of_ours_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        top.parse(text)


@contextmanager
def answering(text: str) -> Iterator[str]:
    """The address of a server that has nothing but these metrics."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def mell_top(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mell_jax.top", *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_a_terminal_there_is_one_picture() -> None:
    with answering(FLEET) as address:
        done = mell_top(f"--address={address}", "--interval_s=0.05")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("mell-top  demo  2 of 4 devices in use")
    assert "0.0 tokens/s out" in done.stdout


def test_without_a_server_there_is_one_clear_line() -> None:
    done = mell_top("--address=127.0.0.1:1", "--once")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "mell-top: no metrics at http://127.0.0.1:1/metrics: "
        "[Errno 111] Connection refused\n"
    )


def test_a_bad_interval_is_refused() -> None:
    done = mell_top("--interval_s=nan")
    assert done.returncode == 2
    assert "interval_s must be from 0 to 3600, got nan" in done.stderr


def test_an_answer_of_somebody_else_is_told() -> None:
    with answering("<html>no"), answering("other 1\n") as address:
        done = mell_top(f"--address={address}", "--once")
    assert done.returncode == 1
    assert done.stderr.endswith("these are no metrics of mell-serve\n")


def test_a_server_that_goes_away_is_waited_for() -> None:
    class OneLook(Exception):
        """Ends the watch."""

    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    looks: list[int] = []

    def pause(seconds: float) -> None:
        looks.append(1)
        if len(looks) == 3:
            raise OneLook

    with answering(FLEET) as address:
        pass  # gone by now
    with pytest.raises(OneLook):
        top.watch(address, interval_s=1.0, console=console, pause=pause)
    assert isinstance(console.file, io.StringIO)
    assert "waiting for it" in console.file.getvalue()


def test_looking_does_not_load_jax() -> None:
    code = "import sys, mell_jax.top; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=True)
