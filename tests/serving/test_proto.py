"""The generated files are those that `make protos` would make."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from mell_jax.serving.proto import mell_admin_pb2, open_inference_pb2

ROOT = Path(__file__).parents[2]
PROTO = Path("mell_jax/serving/proto")


def test_generated_files_are_up_to_date(tmp_path: Path) -> None:
    sources = sorted(str(path) for path in (ROOT / PROTO).glob("*.proto"))
    assert len(sources) == 2
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", *outputs, *sources],
        check=True,
        timeout=60,
    )
    made = sorted((tmp_path / PROTO).iterdir())
    assert len(made) == 6
    for path in made:
        committed = ROOT / PROTO / path.name
        assert path.read_text() == committed.read_text(), f"{path.name}: make protos"


def test_the_generator_is_one_whose_files_protobuf_6_and_7_read() -> None:
    assert version("grpcio-tools") == "1.76.0"
    text = (ROOT / PROTO / "mell_admin_pb2.py").read_text()
    assert "Protobuf Python Version: 6.31.1" in text


def test_every_scalar_of_our_own_protocol_tells_whether_it_is_set() -> None:
    descriptor = mell_admin_pb2.DESCRIPTOR
    for message in descriptor.message_types_by_name.values():
        for field in message.fields:
            is_many = field.is_repeated
            assert is_many or field.has_presence, f"{message.name}.{field.name}"


@pytest.mark.parametrize(
    ("message", "field", "number"),
    [
        ("ModelInferRequest", "raw_input_contents", 7),
        ("ModelInferResponse", "raw_output_contents", 6),
        ("InferTensorContents", "bytes_contents", 8),
        ("InferParameter", "double_param", 4),
        ("ModelStreamInferResponse", "error_message", 1),
        ("ModelConfig", "model_transaction_policy", 19),
        ("ModelOutput", "dims", 3),
        ("ModelInput", "dims", 4),
    ],
)
def test_the_public_protocol_has_its_published_numbers(
    message: str, field: str, number: int
) -> None:
    descriptor = open_inference_pb2.DESCRIPTOR
    assert descriptor.package == "inference"
    found = descriptor.message_types_by_name[message].fields_by_name[field]
    assert found.number == number
