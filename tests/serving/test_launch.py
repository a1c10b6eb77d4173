"""`mell-serve` up to the point where an engine is built."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def launch(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mell_jax.launch", *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("launch", ["model", "mesh", "http_port", "tls_cert", "grace_s", "log_format"]),
        ("simulate", ["trace", "policies"]),
    ],
)
def test_help_shows_every_flag_whoever_asks(module: str, names: list[str]) -> None:
    for start in (
        ["-m", f"mell_jax.{module}"],
        ["-c", f"from mell_jax.{module} import run; run()"],  # as scripts do
    ):
        command = [sys.executable, *start, "--help"]
        told = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert [name for name in names if f"--{name}:" not in told.stdout] == []


def test_a_model_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    done = launch(f"--model={tmp_path}", "--port=0")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("mell-serve: ")
    assert str(tmp_path) in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--port=99999", "port must be from 0 to 65535, got 99999"),
        ("--http_port=99999", "http_port must be from 0 to 65535, got 99999"),
        ("--http_port=50051", "http_port must not be port, both are 50051"),
        ("--health_port=50051", "health_port must not be port, both are 50051"),
        ("--frontends=65", "frontends must be from 0 to 64, got 65"),
        ("--stall_s=0", "stall_s must be from 1 to 86400, got 0.0"),
        ("--max_rows=0", "max_rows must be at least 1, got 0"),
        ("--host=192.0.2.1", "cannot listen on 192.0.2.1:50051"),
        ("--mesh=4*2", "mesh must be INSTANCESxDEVICES, such as 4x2"),
        ("--cpu_devices=0", "cpu_devices must be at least 1, got 0"),
        ("--tls_cert=x", "tls_cert and tls_key need each other: give both"),
        ("--queue_timeout_s=nan", "queue_timeout_s must be above 0, got nan"),
        ("--stall_timeout_s=0", "stall_timeout_s must be above 0 and at most"),
        ("--tokens_file=/no/file", "[Errno 2] No such file or directory: '/no/file'"),
        ("--chat_template=/no/file", "[Errno 2] No such file or directory: '/no/file'"),
        ("--chat_template=a=/no/file", "chat_template names 'a', which is not served"),
        ("model", "takes flags only, got 'model'"),
    ],
)
def test_a_bad_flag_is_one_clear_line(flag: str, message: str) -> None:
    done = launch(flag)
    assert done.returncode == 1
    assert done.stderr.startswith(f"mell-serve: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("flag", ["--chat_template", "--chat_template=demo"])
def test_a_bad_chat_template_is_found_before_anything_is_loaded(
    flag: str, tmp_path: Path
) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text("{{ messages[0].content }}\n{% if %}")
    done = launch(f"{flag}={path}", "--port=0")
    assert done.returncode == 1
    assert done.stderr.startswith(f"mell-serve: {path}: line 2 of the chat template: ")
    assert done.stderr.count("\n") == 1


def test_the_mesh_is_laid_over_the_devices_of_a_cpu() -> None:
    done = launch("--mesh=1x3", "--cpu_devices=3", "--port=0")
    assert "tensor parallelism over 3 devices needs a model" in done.stderr
    done = launch("--mesh=1x4", "--cpu_devices=2", "--port=0")
    assert "a mesh of 1x4 uses device 3, but jax finds 2 (cpu)" in done.stderr


def test_help_does_not_load_jax() -> None:
    code = (
        "import sys\n"
        "from absl import flags\n"
        "import mell_jax.launch\n"
        "assert 'port' in flags.FLAGS\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=a=demo", "--model=a=demo"], "models must have different names"),
        (
            ["--model=a=demo", "--model=b=demo", "--served_model_name=x"],
            "served_model_name is for one model",
        ),
    ],
)
def test_models_that_contradict_each_other_are_one_clear_line(
    flags: list[str], message: str
) -> None:
    done = launch("--port=0", *flags)
    assert done.returncode == 1
    assert done.stderr.startswith(f"mell-serve: {message}")
    assert done.stderr.count("\n") == 1
