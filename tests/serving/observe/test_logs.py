"""Lines of the log as JSON, and which of them there are."""

import json
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from mell_jax.engine.params import InvalidRequestError
from mell_jax.events import LOGGER_NAME, Event, tell
from mell_jax.serving.observe.logs import JsonLines, Place, PlacedLines, Thinned
from mell_jax.serving.problem import problem_of
from tests.serving.config_file import config_flag
from tests.serving.fake_engine import write_letters_tokenizer
from tests.serving.fake_server import fake_server
from tests.serving.harness import ids_request

ROOT = Path(__file__).parents[3]


class Lines(logging.Handler):
    """Keeps what would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines("engine"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    @property
    def objects(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def lines() -> Iterator[Lines]:
    logger, handler = logging.getLogger(LOGGER_NAME), Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_an_event_is_one_object_with_its_fields(lines: Lines) -> None:
    tell(Event.READY, text="served", grpc="127.0.0.1:5", took_s=1.5)
    (line,) = lines.objects
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("time")
    )
    assert str(line.pop("source")).startswith("test_logs.py:")
    assert line == {
        "level": "info",
        "event": "ready",
        "process": "engine",
        "message": "served",
        "grpc": "127.0.0.1:5",
        "took_s": 1.5,
    }


def test_a_process_of_a_fleet_of_hosts_names_itself_and_its_epoch() -> None:
    place = Place("host left")
    json_lines, text_lines = JsonLines("engine", place=place), PlacedLines(place)
    record = logging.LogRecord(
        *("x", logging.WARNING, "a/front.py", 7, "lost [%s] 1", ("c",), None)
    )
    assert json.loads(json_lines.format(record))["process"] == "host left"
    assert "epoch" not in json.loads(json_lines.format(record))
    assert text_lines.format(record).endswith("front.py:7] [host left] lost [c] 1")
    place.epoch = 17
    assert json.loads(json_lines.format(record))["epoch"] == 17
    assert text_lines.format(record).endswith("[host left, epoch 17] lost [c] 1")
    place.epoch = None
    assert "epoch" not in text_lines.format(record)


def test_a_cause_stays_on_its_line(lines: Lines) -> None:
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError as error:
        tell(Event.ENGINE_FAILED, text="lost", error=error)
    assert "\n" not in lines.lines[0]
    (line,) = lines.objects
    assert line["level"] == "error"
    assert "RuntimeError: two\nlines" in str(line["error"])


def test_what_is_no_event_is_a_line_too() -> None:
    record = logging.LogRecord("x", logging.WARNING, "a.py", 7, "%d%%", (5,), None)
    line = json.loads(JsonLines("front end 1").format(record))
    assert (line["event"], line["message"]) == ("log", "5%")
    assert line["process"] == "front end 1"


def test_a_refusal_says_nothing_that_its_client_said(lines: Lines) -> None:
    problem_of(InvalidRequestError("prompt", "holds token id 31337"))
    (line,) = lines.objects
    assert line["event"] == "request_refused"
    assert (line["code"], line["kind"], line["field"]) == (
        "INVALID_ARGUMENT",
        "InvalidRequestError",
        "prompt",
    )
    assert "31337" not in lines.lines[0]


def test_a_failure_has_the_id_that_its_client_was_told(lines: Lines) -> None:
    problem = problem_of(KeyError("our own fault"))
    (line,) = lines.objects
    assert (line["event"], line["level"]) == ("request_failed", "error")
    assert problem.message.endswith(str(line["error_id"]))
    assert "our own fault" in str(line["error"])


def test_many_refusals_are_thinned_and_counted() -> None:
    now_s = 5.0
    thinned = Thinned(2, clock=lambda: now_s)

    def refusal() -> logging.LogRecord:
        record = logging.LogRecord("x", logging.INFO, "a.py", 7, "no", (), None)
        record.event = "request_refused"
        return record

    assert [bool(thinned.filter(refusal())) for _ in range(5)] == [
        *(True, True),
        *(False, False, False),
    ]
    now_s = 6.0
    late = refusal()
    assert thinned.filter(late)
    assert json.loads(JsonLines("engine").format(late))["left_out"] == 3
    other = logging.LogRecord("x", logging.INFO, "a.py", 7, "%d", (1,), None)
    assert all(thinned.filter(other) for _ in range(5))


def test_the_documents_have_every_event_and_no_other() -> None:
    text = (ROOT / "mell_jax/serving/README.md").read_text()
    table = text.partition("## Events")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [
        event.value for event in Event
    ]


def test_a_server_tells_its_life_in_json(tmp_path: Path) -> None:
    directory = write_letters_tokenizer(tmp_path)
    config = {"drain_s": 5.0, "http_port": 0, "log_format": "json"}
    with fake_server(directory, context=100, **config) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = pb_grpc.VllmEngineStub(channel)
            with pytest.raises(grpc.RpcError):
                list(stub.Generate(ids_request(31337)))
        server.process.send_signal(signal.SIGTERM)
        errors = server.process.communicate(timeout=60)[1]
    found = [json.loads(line) for line in errors.splitlines()]
    events = [(line["process"], line["event"]) for line in found]
    assert events == [
        ("engine", "front_end_ready"),
        ("engine", "ready"),
        ("front end 1", "request_refused"),
        ("front end 1", "draining"),
        ("engine", "stopped"),
    ]
    assert found[1]["grpc"] == server.address
    assert "31337" not in errors


def test_a_bad_start_is_one_line_of_json(tmp_path: Path) -> None:
    config = config_flag(tmp_path, '[server]\notlp_endpoint = "collector:4317"')
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mell_jax.launch", "--log_format=json"),
            *("--port=0", config),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    starting, failed = (json.loads(line) for line in done.stderr.splitlines())
    assert starting["event"] == "starting"
    assert (failed["event"], failed["level"]) == ("failed", "error")
    assert "otlp_endpoint must be http://host:port" in failed["message"]
