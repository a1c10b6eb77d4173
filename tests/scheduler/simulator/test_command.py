"""`mell-simulate` as a stranger uses it.

All commands run in one process of their own: the flags of two of our commands cannot be
defined in one.
"""

import gzip
import importlib
import importlib.util
import io
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

FIGURES = {
    "devices_mean",
    "devices_peak",
    "utilization_mean",
    "lower_bound_mean",
    "migrations",
    "migrations_per_request",
    "tokens_moved",
    "tokens_recomputed",
    "preemptions",
    "activations",
    "rejected",
    "wait_mean_s",
    "wait_p99_s",
    "pauses",
    "pause_s",
    "pause_max_s",
    "ttft_p99_s",
    "tpot_p50_s",
    "e2e_p90_s",
    "slo_attainment",
    "decision_us_p50",
    "decision_us_p99",
}
SMALL = ("--span_s=30", "--capacity_tokens=4000")
HEAD = "arrival_s,input_tokens,output_tokens\n"


def command(arguments: tuple[str, ...]) -> tuple[str, str]:
    """What a command prints, and its last words if it fails; runs in the process."""
    simulate = importlib.import_module("mell_jax.simulate")
    printed, last = io.StringIO(), ""
    with flagsaver.flagsaver(), redirect_stdout(printed):
        flags.FLAGS(["mell-simulate", *arguments])
        try:
            simulate.main(["mell-simulate"])
        except SystemExit as error:
            last = str(error.code)
    return printed.getvalue(), last


class Shell:
    """Runs commands in the process of their own."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def run(self, *arguments: str) -> str:
        printed, last = self._pool.submit(command, arguments).result()
        assert last == ""
        return printed

    def refused(self, *arguments: str) -> str:
        """The one line with which a command is refused."""
        printed, last = self._pool.submit(command, arguments).result()
        assert last.startswith("mell-simulate: ") and "\n" not in last
        assert printed == ""
        return last


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        yield Shell(pool)


@pytest.fixture
def two_models(tmp_path: Path) -> Path:
    """Chats of 2,000 tokens and code of 1,000, one of each a second."""
    path = tmp_path / "two.csv.gz"
    lines = [f"{n // 2},900,100,code\n{n // 2},1900,100,conv\n" for n in range(60)]
    head = HEAD.replace("\n", ",model\n")
    path.write_bytes(gzip.compress((head + "".join(lines)).encode()))
    return path


def test_a_trace_with_every_flag_gives_every_figure(
    shell: Shell, two_models: Path, tmp_path: Path
) -> None:
    written = tmp_path / "figures.json"
    printed = shell.run(
        f"--trace={two_models}",
        "--models=code:0.5,conv:1.0",
        "--capacity_tokens=8000",
        "--page_tokens=16",
        "--policies=best_fit,load_balance,consolidate,mell,repack",
        "--headroom=0,0.05",
        "--epoch_s=0.5",
        "--decode_tokens_per_s=33",
        "--prefill_tokens_per_s=4000",
        "--prefill_share=0.5",
        "--link_gbps=25",
        "--look_s=2",
        "--max_devices=50",
        "--activation_s=1",
        "--tpot_slo_ms=100",
        "--step_fixed_ms=5",
        "--step_row_ms=1",
        "--step_ktoken_ms=1",
        "--seed=3",
        f"--output_json={written}",
    )
    content = json.loads(written.read_text())
    assert content["requests"] == 120 and content["settings"]["epoch_s"] == 0.5
    assert list(content["policies"]) == [
        "best_fit",
        "load_balance",
        "consolidate",
        "mell",
        "repack",
    ]
    for figures in content["policies"].values():
        assert set(figures) >= FIGURES
        assert figures["served_tokens"] == 60 * 3000
    lines = printed.splitlines()
    assert lines[0] == ("two: 120 requests, C = 8,000 tokens, means over 7 s to 29 s")
    assert max(len(line) for line in lines) <= 100
    tables = [line.split()[0] for line in lines if line.startswith("mell")]
    assert tables == ["mell"] * 4


@pytest.fixture
def profile(tmp_path: Path) -> str:
    path = tmp_path / "profile.json"
    content = {
        "name": "by hand",
        "step_time": {"fixed_s": 0.01, "row_s": 0.0, "page_s": 1e-5},
        "prefill_token_s": 1e-4,
        "token_budget": 512,
        "max_rows": 64,
        "capacity_tokens": 8000,
        "page_tokens": 16,
        "kv_bytes_per_token": 1000,
        "load_s": 2.0,
        "link_bytes_per_s": None,
    }
    path.write_text(json.dumps(content))
    return f"--profile={path}"


def test_a_fleet_is_as_its_profile_says_where_no_flag_does(
    shell: Shell, two_models: Path, profile: str, tmp_path: Path
) -> None:
    written = tmp_path / "figures.json"
    common = (profile, f"--trace={two_models}", f"--output_json={written}")
    shell.run(*common)
    settings = json.loads(written.read_text())["settings"]
    names = ("capacity_tokens", "kv_bytes_per_token", "activation_s", "link_gbps")
    assert [settings[name] for name in names] == [8000, 1000, 2.0, None]
    assert settings["steps"]["token_budget"] == 512
    assert settings["step_time"]["page_s"] == pytest.approx(1e-5)
    assert settings["prefill_tokens_per_s"] == pytest.approx(1e4)
    shell.run(
        *common,
        "--capacity_tokens=16000",
        "--page_tokens=32",
        "--activation_s=0",
        "--prefill_tokens_per_s=5000",
        "--step_fixed_ms=20",
    )
    settings = json.loads(written.read_text())["settings"]
    assert [settings[name] for name in names] == [16000, 1000, 0.0, None]
    assert settings["step_time"]["page_s"] == pytest.approx(2e-5)  # of a larger page
    assert settings["step_time"]["fixed_s"] == pytest.approx(0.02)
    assert settings["steps"]["prefill_token_s"] == pytest.approx(2e-4)


def test_objectives_are_reported_on_and_bind_placement(
    shell: Shell, two_models: Path, profile: str, tmp_path: Path
) -> None:
    written, bound = tmp_path / "figures.json", "--slo_tpot_ms=12.6"
    common = (f"--trace={two_models}", profile, "--activation_s=0")
    devices, met = [], []
    for slo in ((), (bound,), (bound, "--tpot_slo_ms=99")):
        printed = shell.run(*common, f"--output_json={written}", *slo)
        figures = json.loads(written.read_text())["policies"]["consolidate"]
        devices.append(figures["devices_mean"])
        met.append(figures["slo_attainment"])
    assert devices[0] == devices[2] < devices[1]  # 260 pages an instance, of 500
    assert met[0] == 1.0 and met[1] > met[2]
    assert "ttft p50" in printed and "met: requests within" in printed


def test_loading_warm_devices_links_and_blocks_have_flags(
    shell: Shell, two_models: Path, tmp_path: Path
) -> None:
    written, log = tmp_path / "figures.json", tmp_path / "log"
    switches = (
        "--load_s=code:1,conv:3",
        "--warm=2",
        "--warm_s=0.5",
        "--devices_per_host=2",
        "--host_gbps=100",
        "--switch_gbps=150",
        f"--record={log}",
    )
    printed = shell.run(
        f"--trace={two_models}",
        f"--output_json={written}",
        "--activation_s=2",
        *switches,
    )
    settings = json.loads(written.read_text())["settings"]
    assert settings["load_s"] == {"code": 1.0, "conv": 3.0}
    assert (settings["warm_devices"], settings["host_gbps"]) == (2, 100.0)
    assert "kept warm" in printed
    assert "every plan as recorded" in shell.run(f"--replay={log}")
    assert "--replay reproduces" in shell.refused(f"--check={log}")
    blocks = tmp_path / "blocks.jsonl"
    row = {"timestamp": 0, "input_length": 900, "output_length": 90, "hash_ids": [1, 2]}
    lines = [json.dumps(row | {"timestamp": 500 * at}) for at in range(20)]
    blocks.write_text("\n".join(lines))
    printed = shell.run(f"--blocks={blocks}", f"--output_json={written}")
    assert "found  of prompts" in printed
    figures = json.loads(written.read_text())["policies"]["consolidate"]
    assert figures["prefix_hit_tokens"] > 0


CONTEXT = "--context_tokens=3000"
GEMMA = ("--layer_windows=128,128,128,128,128,0", CONTEXT)


def test_a_model_whose_layers_have_windows_needs_fewer_devices(
    shell: Shell, tmp_path: Path
) -> None:
    log, written = tmp_path / "log", tmp_path / "figures.json"
    devices = []
    for windows in ((CONTEXT,), (*GEMMA, "--num_layers=26", f"--record={log}")):
        printed = shell.run(
            *SMALL, f"--output_json={written}", "--step_ktoken_ms=1", *windows
        )
        content = json.loads(written.read_text())
        devices.append(content["policies"]["consolidate"]["devices_mean"])
    assert devices[1] < 0.6 * devices[0]
    page_s = content["settings"]["step_time"]["page_s"]
    assert page_s == pytest.approx(16e-6 * 4 / 26)
    with log.open() as lines:
        requests = json.loads(lines.readline())["header"]["requests"]
    assert max(given + made for _, given, made, _ in requests) == 3000
    assert printed.splitlines()[2] == (
        "26 layers, 4 to a page; groups: 1 of all pages, 6 of at most 25 pages of a "
        "request"
    )
    assert "every figure as reported" in shell.run(f"--check={log}")
    assert "every plan as recorded" in shell.run(f"--replay={log}")


def test_layers_and_requests_that_do_not_go_together_are_refused(
    shell: Shell, two_models: Path
) -> None:
    assert "6 windows for 4 layers" in shell.refused(*SMALL, *GEMMA, "--num_layers=4")
    assert "but a request of two has 2000 tokens" in shell.refused(
        f"--trace={two_models}", "--context_tokens=1999"
    )


def test_a_recorded_run_is_replayed(shell: Shell, tmp_path: Path) -> None:
    log = tmp_path / "log"
    shell.run(*SMALL, "--policies=consolidate,mell,repack", f"--record={log}")
    for policy in ("consolidate", "mell"):
        printed = shell.run(f"--replay={log}.{policy}")
        assert "events replayed, every plan as recorded" in printed
    whole = (tmp_path / "log.mell").read_text()
    (tmp_path / "cut").write_text(whole[:-20])
    assert "cut off" in shell.refused(f"--replay={tmp_path / 'cut'}")


def test_a_recorded_run_is_checked_by_other_code(shell: Shell, tmp_path: Path) -> None:
    log = tmp_path / "log"
    shell.run(*SMALL, "--policies=consolidate", f"--record={log}", "--max_devices=3")
    printed = shell.run(f"--check={log}")
    assert "every figure as reported" in printed and "tokens_moved" in printed
    lines = log.read_text().splitlines()
    figures = json.loads(lines[-1])
    figures["figures"]["tokens_moved"] += 1
    (tmp_path / "bent").write_text("\n".join([*lines[:-1], json.dumps(figures)]))
    assert "tokens_moved: reported" in shell.refused(f"--check={tmp_path / 'bent'}")
    (tmp_path / "cut").write_text("\n".join(lines[:-1]))
    assert "ends without figures" in shell.refused(f"--check={tmp_path / 'cut'}")
    (tmp_path / "none").write_text("")
    assert "is empty" in shell.refused(f"--check={tmp_path / 'none'}")
    (tmp_path / "no").write_text("{}")
    assert "is not of an event log" in shell.refused(f"--check={tmp_path / 'no'}")


def test_the_command_runs_on_its_own_and_without_a_trace() -> None:
    words = [sys.executable, "-m", "mell_jax.simulate", *SMALL, "--workload=bursty"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "consolidate" in done.stdout
    assert "consolidate: " in done.stderr  # the bar
    done = subprocess.run(
        [*words, "--trace=no.csv"], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (
        1,
        "mell-simulate: there is no trace no.csv: give a .csv or .csv.gz file\n",
    )


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs the extra `plot`"
)
def test_a_plot_is_drawn_or_refused_before_the_run(
    shell: Shell, tmp_path: Path
) -> None:
    shell.run(*SMALL, "--policies=consolidate,repack", f"--plot={tmp_path / 'out.png'}")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert "must end in one of" in shell.refused(
        *SMALL, f"--plot={tmp_path / 'out.foo'}"
    )


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is not None, reason="matplotlib is there"
)
def test_a_plot_without_matplotlib_says_what_to_install(
    shell: Shell, tmp_path: Path
) -> None:
    assert "pip install" in shell.refused(*SMALL, f"--plot={tmp_path / 'out.png'}")


@pytest.mark.parametrize(
    ("argument", "rule"),
    [
        ("--capacity_tokens=-5", "capacity_tokens must be >= 10"),
        ("--page_tokens=100000", "raise the capacity or lower page_tokens"),
        ("--epoch_s=nan", "epoch_s must be > 0 and finite, got nan"),
        ("--decode_tokens_per_s=inf", "decode_tokens_per_s must be > 0 and finite"),
        ("--prefill_tokens_per_s=-1", "prefill_tokens_per_s must be > 0"),
        ("--prefill_share=0", r"prefill_share must be in (0, 1], got 0.0"),
        ("--link_gbps=nan", "link_gbps must be > 0"),
        ("--look_s=inf", "look_s must be from 0 to 1e+06"),
        ("--max_devices=0", "max_devices must be > 0"),
        ("--activation_s=nan", "activation_s must be >= 0"),
        ("--tpot_slo_ms=0", "tpot_slo_s must be > 0"),
        ("--headroom=0,1", "fractions in [0, 1), as in 0,0.05,0.1, got '0,1'"),
        ("--headroom=", "fractions in [0, 1)"),
        ("--policies=magic", "no policy is called 'magic'"),
        ("--policies=", "no policy is given"),
        ("--layer_windows=128,x", "0 for a layer that sees everything, as in"),
        ("--layer_windows=128,0", "--layer_windows needs --context_tokens"),
        ("--models=code:x", "'code:x' is not name:weight"),
        ("--models=code:0.5", "add default:1.0"),
        ("--models=default:nan", "the weight of default must be > 0, got nan"),
        ("--rate=1e9", "lower the rate or the span"),
        ("--rate=1e-9", "raise the rate or the span"),
        ("--span_s=nan", "span_s must be > 0 and finite"),
        ("--input_mean=nan", "a mean length must be > 0"),
        ("--output_sigma=nan", "a sigma must be in [0, 10]"),
        ("--lengths=magic", "no quantiles of 'magic'"),
        ("--output_json=/no/such/folder/a.json", "there is no such folder"),
        ("--record=/no/such/folder/log", "there is no such folder"),
        ("--replay=/no/such/log", "No such file"),
        ("--data=/no/such/folder", "is no folder"),
        ("--profile=/no/such/profile", "No such file"),
        ("--slo_ttft_ms=0", "slo_ttft_s must be > 0"),
        ("--slo_tpot_ms=nan", "slo_tpot_s must be > 0"),
        ("--load_s=x", "'x' is not name:seconds, as in code:30,chat:60"),
        ("--load_s=code:3", "load_s names 'code', which no request is for"),
        ("--load_s=default:-1", "load_s of default must be >= 0 and finite"),
        ("--warm_s=nan", "warm_s must be >= 0 and finite"),
        ("--devices_per_host=0", "devices_per_host must be > 0"),
        ("--host_gbps=-1", "host_gbps must be > 0"),
        ("--switch_gbps=nan", "switch_gbps must be > 0"),
        ("--blocks=/no/such/blocks.jsonl", "No such file"),
        ("--scale=many", "numbers of instances, got 'many'"),
        ("--scale=0", "at least 1 instance"),
    ],
)
def test_what_is_wrong_is_refused_with_its_rule(
    shell: Shell, argument: str, rule: str
) -> None:
    assert rule in shell.refused(*SMALL, argument)


def test_bounds_and_several_headrooms_cannot_be_recorded(
    shell: Shell, tmp_path: Path
) -> None:
    record = f"--record={tmp_path / 'log'}"
    assert "decide nothing" in shell.refused(*SMALL, record, "--policies=repack")
    assert "give one --headroom" in shell.refused(*SMALL, record, "--headroom=0,0.1")
    assert "a bound" in shell.refused(*SMALL, "--scale=1", "--policies=repack")


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "columns ['arrival_s', 'input_tokens', 'output_tokens'] are missing"),
        (b"arrival_s,tokens\n0,5\n", "['input_tokens', 'output_tokens'] are missing"),
        (HEAD.encode(), "has no requests"),
        (HEAD.encode() + b"0,5,6\n1,5\n", "line 3: output_tokens must be a whole"),
        (HEAD.encode() + b"0,5,x\n", "at least 1, got 'x'"),
        (HEAD.encode() + b"0,5,2.5\n", "at least 1, got '2.5'"),
        (HEAD.encode() + b"0,5,nan\n", "at least 1, got 'nan'"),
        (HEAD.encode() + b"0,0,6\n", "line 2: input_tokens must be a whole number"),
        (HEAD.encode() + b"-1,5,6\n", "arrival_s must be a number of at least 0"),
        (HEAD.encode() + b"1,5,6\n0,5,6\n", "line 3: arrivals must not go back"),
        (b"\xff\xfe\x00", "not readable as CSV"),
    ],
)
def test_a_damaged_trace_is_refused_with_its_line(
    shell: Shell, content: bytes, rule: str, tmp_path: Path
) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    assert rule in shell.refused(f"--trace={path}")
    packed = tmp_path / "trace.csv.gz"
    packed.write_bytes(gzip.compress(content))
    assert rule in shell.refused(f"--trace={packed}")
    packed.write_bytes(gzip.compress(HEAD.encode())[:-4])
    assert "not readable as CSV or gzip" in shell.refused(f"--trace={packed}")


@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"{}\n", b'{"header": {}}\n', b"\xff\n"]
)
def test_a_log_that_is_none_is_refused(
    shell: Shell, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    assert "not an event log" in shell.refused(f"--replay={path}")


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    path = tmp_path / "devices.csv"
    path.write_text(
        "kind,count,capacity_tokens,speed,price_per_hour,spot_losses_per_hour\n"
        "big,8,8000,1.0,1.5,\nsmall,20,4000,1.0,1.0,\nspot,4,4000,1.0,0.5,60\n"
    )
    return path


def test_devices_with_prices_are_compared_by_money(
    shell: Shell, devices: Path, tmp_path: Path
) -> None:
    written = tmp_path / "figures.json"
    printed = shell.run(
        "--span_s=30",
        f"--devices={devices}",
        "--policies=consolidate,best_fit",
        "--losses_per_hour=30",
        "--loss_seed=2",
        "--repair_s=10",
        "--activation_s=1",
        "--reserve=1",
        f"--output_json={written}",
    )
    assert "20 small of 4,000 tokens, speed 1, 1 an hour" in printed
    for heading in ("money/h", "saved/h", "requests  tokens", "small  peak"):
        assert heading in printed
    content = json.loads(written.read_text())
    assert content["settings"]["devices"][2]["losses_per_hour"] == 60
    assert content["settings"]["max_devices"] == 32
    ours, base = (content["policies"][name] for name in ("consolidate", "best_fit"))
    assert base["money_saved_per_hour"] == 0
    saved = base["money_per_hour"] - ours["money_per_hour"]
    assert ours["money_saved_per_hour"] == pytest.approx(saved)
    assert ours["money_saved_share"] == pytest.approx(saved / base["money_per_hour"])
    for figures in (ours, base):
        assert figures["money_bound_per_hour"] > 0
        means = sum(figures[f"devices_mean of {k}"] for k in ("big", "small", "spot"))
        assert means == pytest.approx(figures["devices_mean"])
        assert figures["losses"] > 0


def test_a_log_of_several_kinds_is_reproduced_and_checked(
    shell: Shell, devices: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    shell.run(
        "--span_s=20", f"--devices={devices}", "--losses_per_hour=30", f"--record={log}"
    )
    assert "every plan as recorded" in shell.run(f"--replay={log}")
    checked = shell.run(f"--check={log}")
    assert "money_per_hour" in checked and "every figure as reported" in checked


def test_what_does_not_go_with_a_table_of_devices_is_refused(
    shell: Shell, devices: Path, tmp_path: Path
) -> None:
    table = f"--devices={devices}"
    assert "it stands in the table" in shell.refused(table, "--capacity_tokens=9")
    assert "it stands in the table" in shell.refused(table, "--max_devices=9")
    assert "devices of one size" in shell.refused(table, *SMALL[:1], "--policies=mell")
    none = f"--devices={tmp_path / 'none.csv'}"
    assert "there is no table of devices" in shell.refused(none)
    assert "losses_per_hour must be >= 0" in shell.refused("--losses_per_hour=-1")
