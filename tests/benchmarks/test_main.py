import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main


def test_help_names_every_suite_and_groups_the_flags(capsys):
    assert main(["benchmarks", "--help"]) == 0
    text = capsys.readouterr().out
    suites = ("decode", "overhead", "startup", "kernels", "gpu")
    for name in (*suites, "fleet", "migration", "service", "rl", "hosts"):
        assert f"{name} (" in text.replace("\n", " ")
    groups = [
        line for line in text.splitlines() if line.endswith(":") and line[0] != " "
    ]
    assert "all suites:" in groups
    assert "the requests:" in groups
    assert "--request_rate:" in text


@pytest.mark.parametrize(
    ("flag", "status", "message"),
    [
        ("", 1, "suite must be one of decode, overhead, startup, kernels, gpu"),
        ("--suite=nothing", 2, "--suite=nothing"),
        ("--no_such_flag", 2, "no_such_flag"),
        ("serve", 2, "takes flags only"),
        ("--suite=fleet --policies=luck", 1, "policies must be of"),
        ("--suite=migration --instances=1", 1, "instances must be at least 2"),
        ("--suite=rl --repeats=-1", 1, "repeats must be at least 1"),
        ("--suite=service --frontends=65", 1, "frontends must be from 0 to 64"),
        ("--suite=service --seconds=0", 1, "seconds must be positive"),
        ("--suite=hosts --hosts_parts=luck", 1, "hosts_parts must be some of tokens"),
        ("--suite=hosts --batch_sizes=7", 1, "batch_sizes must be one even number"),
        ("--suite=hosts --batch_sizes=8,16", 1, "one number of streams, got (8, 16)"),
        ("--suite=hosts --seconds=0", 1, "seconds must be positive"),
        ("--suite=hosts --repeats=0", 1, "repeats must be at least 1"),
        ("--suite=service --batch_sizes=0", 1, "batch_sizes must be positive"),
    ],
)
def test_a_wrong_flag_is_told_without_a_traceback(capsys, flag, status, message):
    assert main(["benchmarks", "--noprogress", *flag.split()]) == status
    assert message in capsys.readouterr().err


def test_batch_sizes_must_be_numbers(capsys):
    flags = ["--suite=decode", "--batch_sizes=1,many", "--noprogress"]
    assert main(["benchmarks", *flags]) == 1
    assert "batch_sizes must be numbers" in capsys.readouterr().err


def test_suites_of_a_device_need_nothing_of_a_server():
    code = (
        "import sys, benchmarks.device_suites, benchmarks.gpu.child;"
        "names = {'grpc', 'llguidance', 'msgspec', 'starlette', 'tokenizers'};"
        "print(names & sys.modules.keys())"
    )
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.decode().strip() == "set()", done.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--suite=decode", "--new_tokens=4", "--batch_sizes=1,2", "--torch_python="],
        ["--suite=overhead", "--batch_sizes=4", "--steps=10", "--token_budget=32"],
    ],
)
def test_a_suite_runs_from_flags_to_json(tmp_path, capsys, flags):
    path = tmp_path / "out.json"
    common = ["--model=random:tiny", "--prompt_tokens=16", "--repeats=1"]
    status = main(
        ["benchmarks", *flags, *common, "--noprogress", f"--output_json={path}"]
    )
    assert status == 0, capsys.readouterr().err
    document = json.loads(path.read_text())
    assert document["results"]["batches"]
    assert document["settings"]["prompt_tokens"] == 16
    assert document["command"].startswith("python -m benchmarks --suite=")
