"""TLS and tokens where front ends are processes of their own, which read the files."""

import json
import os
import ssl
from pathlib import Path

import grpc
import httpx2
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from mell_jax.serving.security.config import SecurityConfig
from tests.serving.certificates import Authority, Pair
from tests.serving.fake_engine import FakeEngine
from tests.serving.harness import ids_request
from tests.serving.processes.stage import Stage, perform

OLD, NEW = Authority("old"), Authority("new")
ALICE, BOB = "alice-0123456789abcdef", "bob-0123456789abcdef"
PATIENCE = 400  # tries; files are looked at once a second


def write(directory: Path, authority: Authority, *, token: str, at_s: float) -> None:
    """All files of a server, with a time that differs from that of others."""
    authority.sign("server").write(directory, "server")
    (directory / "ca.pem").write_bytes(authority.certificate)
    entry = {"token": token, "tenant": "a", "rights": ["generate", "metrics"]}
    (directory / "tokens.json").write_text(json.dumps({"tokens": [entry]}))
    for path in directory.iterdir():
        os.utime(path, (at_s, at_s))


def config_of(directory: Path) -> SecurityConfig:
    return SecurityConfig(
        tls_cert=str(directory / "server.pem"),
        tls_key=str(directory / "server.key"),
        tls_client_ca=str(directory / "ca.pem"),
        tokens_file=str(directory / "tokens.json"),
    )


def ask_grpc(stage: Stage, *, root: Authority, client: Pair | None, token: str) -> str:
    """What comes of a call on a connection of its own: "ok" or a status."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=root.certificate,
        private_key=None if client is None else client.key,
        certificate_chain=None if client is None else client.certificate,
    )
    metadata = (("authorization", f"Bearer {token}"),)
    with grpc.secure_channel(
        stage.addresses.grpc,
        credentials,
        options=[("grpc.use_local_subchannel_pool", 1)],
    ) as channel:
        stub = pb_grpc.VllmEngineStub(channel)
        request = ids_request(1, max_tokens=2)
        try:
            *_, last = stub.Generate(request, metadata=metadata, timeout=20)
        except grpc.RpcError as error:
            return str(error.code().name)
    assert list(last.complete.output_ids) == [1, 2]
    return "ok"


def ask_http(
    stage: Stage, directory: Path, *, root: Authority, client: Pair | None, token: str
) -> str:
    """What comes of a request: a status, or "no TLS"."""
    context = ssl.create_default_context(cadata=root.certificate.decode())
    if client is not None:
        context.load_cert_chain(*client.write(directory, "asking"))
    try:
        with httpx2.Client(verify=context, timeout=20) as session:
            answer = session.get(
                f"https://{stage.addresses.http}/metrics",
                headers={"authorization": f"Bearer {token}"},
            )
    except httpx2.TransportError:
        return "no TLS"
    return str(answer.status_code)


def test_front_ends_ask_for_certificates_and_tokens_and_read_new_ones(
    tmp_path: Path,
) -> None:
    served, own = tmp_path / "served", tmp_path / "own"
    served.mkdir()
    own.mkdir()
    write(served, OLD, token=ALICE, at_s=1e9)
    old, new = OLD.sign("client"), NEW.sign("client")

    def both(
        stage: Stage, *, root: Authority, client: Pair | None, token: str
    ) -> tuple[str, str]:
        return (
            ask_grpc(stage, root=root, client=client, token=token),
            ask_http(stage, own, root=root, client=client, token=token),
        )

    def script(stage: Stage) -> None:
        refused = ("UNAVAILABLE", "no TLS")
        assert both(stage, root=OLD, client=old, token=ALICE) == ("ok", "200")
        assert both(stage, root=OLD, client=None, token=ALICE) == refused
        assert both(stage, root=OLD, client=new, token=ALICE) == refused
        assert both(stage, root=NEW, client=old, token=ALICE) == refused
        unknown = both(stage, root=OLD, client=old, token=BOB)
        assert unknown == ("UNAUTHENTICATED", "401")
        write(served, NEW, token=BOB, at_s=2e9)
        for _ in range(PATIENCE):
            if both(stage, root=NEW, client=new, token=BOB) == ("ok", "200"):
                break
        else:
            raise AssertionError("the new files are not used")
        assert both(stage, root=NEW, client=new, token=ALICE) == unknown
        assert both(stage, root=OLD, client=old, token=BOB) == refused
        assert both(stage, root=NEW, client=old, token=BOB) == refused

    security = config_of(served)
    assert perform(script, engine=FakeEngine(), http_port=0, security=security) == ""


def test_files_of_no_use_are_one_clear_line_at_the_start(tmp_path: Path) -> None:
    write(tmp_path, OLD, token=ALICE, at_s=1e9)
    (tmp_path / "server.key").write_bytes(OLD.sign("other").key)
    cause = perform(
        lambda stage: None, engine=FakeEngine(), security=config_of(tmp_path)
    )
    assert cause.startswith("a front end did not start: ")
    assert f"{tmp_path / 'server.key'}" in cause
    assert "cannot be used together: [X509: KEY_VALUES_MISMATCH]" in cause
