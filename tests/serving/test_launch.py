"""`mell-serve` up to the point where an engine is built."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from absl.flags import UnrecognizedFlagError

from mell_jax.launch import RENAMED, SETTINGS, given_by, make_config, make_flags
from mell_jax.serving.config import SERVER_LIMITS
from mell_jax.settings.flags import explain_unknown
from mell_jax.settings.setting import Setting, Value
from mell_jax.settings.toml import parse, render
from tests.serving.config_file import config_flag

ROOT = Path(__file__).parents[2]
PORTS = ("port", "http_port", "health_port", "admin_port", "admin_http_port")
HEAVY = {"jax", "flax", "grpc", "orbax", "starlette", "tokenizers"}
FORMER = (  # the flags that there were before settings stood in a file
    *("admin_port", "attention_backend", "chat_template", "compilation_cache_dir"),
    *("cpu_devices", "decode_rows", "device_ids", "devices", "drain_s", "dtype"),
    *("epoch_ms", "fault", "frontends", "grace_s", "health_port", "host", "http_port"),
    *("kv_memory_fraction", "kv_pages", "log_format", "look_s", "max_connection_age_s"),
    *("max_model_len", "max_open", "max_output_tokens", "max_queued", "max_rows"),
    *("max_queued_tokens", "mesh", "metrics_compat", "migration_budget", "model"),
    *("otlp_endpoint", "park", "policy", "port", "prefix_cache", "queue_timeout_s"),
    *("reflection", "replay_limit", "request_timeout_s", "seed", "served_model_name"),
    *("stall_s", "stall_timeout_s", "tenant_max_open", "tenant_max_queued_tokens"),
    *("tls_cert", "tls_client_ca", "tls_key", "token_budget", "tokens_file"),
    *("transport", "verbose"),
)


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
        ("launch", ["model", "mesh", "http_port", "tls_cert", "config", "log_format"]),
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
        ("--admin_port=-1", "admin_port must be from 0 to 65535, got -1"),
        ("--frontends=65", "frontends must be from 0 to 64, got 65"),
        ("--max_rows=0", "max_rows must be at least 1, got 0"),
        ("--host=192.0.2.1", "cannot listen on 192.0.2.1:50051"),
        ("--mesh=4*2", "mesh must be INSTANCESxDEVICES, such as 4x2"),
        ("--cpu_devices=0", "cpu_devices must be at least 1, got 0"),
        ("--tls_cert=x", "tls_cert and tls_key need each other: give both"),
        ("--tokens_file=/no/file", "[Errno 2] No such file or directory: '/no/file'"),
        ("--chat_template=/no/file", "[Errno 2] No such file or directory: '/no/file'"),
        ("--chat_template=a=/no/file", "chat_template names 'a', which is not served"),
        ("model", "takes flags only, got 'model'"),
        ("--badflag", "unknown flag --badflag; --help lists all flags"),
        ("--max_num_seqs=8", "unknown flag --max_num_seqs; did you mean --max_rows?"),
        ("--served-model-name=a", "unknown flag --served-model-name; did you mean --s"),
        ("--tensor_parallel_size=2", "unknown flag --tensor_parallel_size; did you m"),
        ("--drain_s=5", "drain_s is set in a file: --config=FILE with [server] drain_"),
        ("--port=abc", "flag --port=abc: invalid literal for int()"),
        ("--port", "Missing value for flag --port"),
        ("--config=/no/file", "[Errno 2] No such file or directory: '/no/file'"),
        ("--fault=none", "fault must be move:STEPS, raise:DEVICE:STEP, stall:DEVICE"),
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


@pytest.mark.parametrize(
    ("arg", "status"),
    [
        ("--help", 0),
        ("--badflag", 1),
        ("--port=99999", 1),
        ("--frontends=65", 1),
        ("--policy=none", 1),
        ("--fault=none", 1),
        ("--config=/no/file", 1),
        ("--host=192.0.2.1", 1),  # cannot be listened on
    ],
)
def test_what_is_refused_is_refused_before_anything_heavy_is_loaded(
    arg: str, status: int
) -> None:
    code = (
        "import sys\n"
        "from mell_jax.launch import main\n"
        f"assert main(['mell-serve', {arg!r}]) == {status}\n"
        f"assert not {HEAVY} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nstall_s = 0", "stall_s must be from 1 to 86400, got 0.0"),
        ("[limits]\nqueue_timeout_s = nan", "queue_timeout_s must be above 0, got nan"),
        ("[server]\nstall_timeout_s = 0", "stall_timeout_s must be above 0 and at mo"),
        ("[engine]\nmodel = []", "model must name a directory or demo, got none"),
        ("[engine]\nmesh = '2x1'\ndevices = 2", "give devices or mesh, not both"),
        ("[server]\ndrain = 5", "{path}: [server] has no drain; did you mean drain_s?"),
        (
            "[engine]\nmax_num_seqs = 5",
            "{path}: [engine] has no max_num_seqs; did you mean max_rows?",
        ),
        ("[server]\nport = '1'", "{path}: port must be a whole number, got '1'"),
        ("[server\n", "{path}: Expected ']' at the end of a table declaration"),
    ],
)
def test_a_bad_file_is_one_clear_line(text: str, message: str, tmp_path: Path) -> None:
    done = launch(config_flag(tmp_path, text))
    assert done.returncode == 1
    path = tmp_path / "mell.toml"
    assert done.stderr.startswith(f"mell-serve: {message.format(path=path)}")
    assert done.stderr.count("\n") == 1


def test_at_most_36_flags_are_shown() -> None:
    shown = set(make_flags(has_hidden=False))
    assert len(shown) == 36
    assert set(make_flags(has_hidden=True)) - shown == {"fault", "orders"}


def test_every_former_flag_is_a_flag_or_a_setting() -> None:
    settings = {one.name for one in SETTINGS}
    for name in FORMER:
        flags = make_flags(has_hidden=True)
        if name in flags:
            continue
        assert RENAMED.get(name, name).partition("=")[0] in settings
        with pytest.raises(UnrecognizedFlagError) as caught:
            flags(["mell-serve", f"--{name}=1"])
        told = explain_unknown(
            caught.value, values=flags, settings=SETTINGS, renamed=RENAMED
        )
        assert told.startswith(f"{name} is set in a file: --config=FILE with [")


def test_a_step_on_the_command_line_is_sent_to_the_file() -> None:
    done = launch("--step=200")
    assert done.returncode == 1
    assert done.stderr == (
        "mell-serve: step is set in a file: --config=FILE with [engine] "
        "checkpoint_step = 200\n"
    )


def test_every_help_is_sentences_with_a_subject() -> None:
    for one in SETTINGS:
        assert one.help.endswith("."), one.name
        first = one.help.split()[0]
        assert first not in ("Of", "What", "Where", "Who", "How", "Whether"), one.name


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    text = "[engine]\nmax_rows = 3\nmesh = '2x1'\n[server]\nport = 1\ndrain_s = 5\n"
    flags = make_flags(has_hidden=True)
    flags(["mell-serve", config_flag(tmp_path, text), "--port=2", "--devices=3"])
    config = make_config(given_by(flags))
    (engine,) = config.engines
    assert (engine.max_rows, engine.instances, engine.token_budget) == (3, 3, None)
    server = config.server
    assert (server.port, server.drain_s, server.frontends) == (2, 5.0, 1)
    assert server.limits == SERVER_LIMITS


def test_every_setting_of_a_file_reaches_its_configuration(tmp_path: Path) -> None:
    changed = {one.name: _another(one) for one in SETTINGS}
    del changed["devices"]  # or mesh
    changed |= {"mesh": "2x1", "device_ids": (4, 5), "policy": "mell"}
    changed |= {"model": ("a=/a",), "otlp_endpoint": "http://a:1"}
    changed |= {"unix_socket": "/a", "http_unix_socket": "/b", "frontends": 0}
    changed |= {"weights_dirs": ("/w",), "shadow_policies": ("mell",)}
    changed |= {"ray_node": "CPU=2", "fleet_address": "a:1", "join": "a:2"}
    changed |= {"kv_events": "tcp://a:1", "kv_events_replay": "tcp://a:2"}
    defaults = {one.name: one.default for one in SETTINGS}
    for excluded in (  # what goes with the others does not go together
        ("http_port", "deterministic", "join", "ray", "pages_by"),
        (
            "http_unix_socket",
            "decode_rows",
            "attention_backend",
            "hosts",
            "ray",
            "fleet_tls_ca",
        ),
    ):
        given = {name: one for name, one in changed.items() if name not in excluded}
        config = make_config(parse(render(given, settings=SETTINGS), settings=SETTINGS))
        left = {name: defaults[name] for name in excluded}
        assert config.in_force() == {**given, "devices": None, **left}


def _another(one: Setting) -> Value:
    """Returns a value that is not the default."""
    if one.choices:
        return next(choice for choice in one.choices if choice != one.default)
    value = {bool: not one.default, int: 7, float: 0.75, str: "x"}[one.scalar]
    if one.scalar is int and one.name.endswith("port"):
        value = 1 + PORTS.index(one.name)
    if one.name in ("keep_alive_s", "max_connection_age_s", "stall_s"):
        value = 7.5
    return (value,) if one.is_many else value


def test_the_examples_of_the_documents_can_be_read() -> None:
    text = (ROOT / "mell_jax/serving/README.md").read_text()
    examples = re.findall(r"^```toml\n(.*?)^```$", text, flags=re.M | re.S)
    assert len(examples) == 6
    for example in examples:
        make_config(parse(example, settings=SETTINGS))


def test_what_is_in_force_is_printed_and_can_be_given_back(tmp_path: Path) -> None:
    text = "[limits]\nmax_tenant_open = 3\n[fleet]\nparking = 'weights'\n"
    flags = ("--devices=2", "--cpu_devices=2", "--port=0", "--print_config")
    done = launch(config_flag(tmp_path, text), *flags)
    assert (done.returncode, done.stderr) == (0, "")
    shown = tomllib.loads(done.stdout)
    assert (shown["limits"]["max_tenant_open"], shown["fleet"]["parking"]) == (
        3,
        "weights",
    )
    assert shown["engine"]["mesh"] == "2x1"  # devices in other words
    assert shown["engine"]["dtype"] == "float32"  # settled
    assert (shown["engine"]["max_rows"], shown["engine"]["token_budget"]) == (64, 512)
    assert shown["server"]["frontends"] == 1
    again = launch(config_flag(tmp_path, done.stdout), "--print_config")
    assert (again.returncode, again.stdout) == (0, done.stdout)


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
