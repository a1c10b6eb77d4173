"""Talks to a server from a terminal: one prompt, or line after line.

    python -m mell_jax.client "Once upon a time" --max_tokens=100
    python -m mell_jax.client                      # asks for prompts; Ctrl-D leaves

The contract carries token ids, so text is made here, with the server's tokenizer.
"""

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from absl import app, flags
from smg_grpc_proto.generated import common_pb2
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc

from mell_jax.serving.vllm.tokenizer_archive import unpack
from mell_jax.text.output_text import OutputText
from mell_jax.text.tokenizer import Tokenizer, load_tokenizer

_ADDRESS = flags.DEFINE_string(
    "address",
    "localhost:50051",
    "The server listens here: host:port, or unix:/path of its socket.",
)
_MODEL = flags.DEFINE_string(
    "model", None, "The server must have a model of this name; by default any will do."
)
_TENANT = flags.DEFINE_string(
    "tenant", None, "Prompts are cached for this tenant alone."
)
_TLS_CA = flags.DEFINE_string(
    "tls_ca",
    None,
    "The client speaks TLS with a server whose certificate one of these signed.",
)
_TOKEN_FILE = flags.DEFINE_string(
    "token_file", None, "This file holds the token that the server wants to see."
)
_MAX_TOKENS = flags.DEFINE_integer(
    "max_tokens", 200, "An answer has at most this many tokens."
)
_TEMPERATURE = flags.DEFINE_float(
    "temperature", None, "0 takes the likeliest token; by default the server chooses."
)
_TOP_P = flags.DEFINE_float(
    "top_p", None, "Only the likeliest tokens of this mass are drawn."
)
_TOP_K = flags.DEFINE_integer(
    "top_k", None, "Only this many likeliest tokens are drawn."
)
_SEED = flags.DEFINE_integer(
    "seed", None, "This number (32 bits) makes an answer repeatable."
)
_STOP = flags.DEFINE_multi_string("stop", [], "This text ends the answer.")
_IGNORE_EOS = flags.DEFINE_bool(
    "ignore_eos", False, "The answer goes on after its end."
)
_STATS = flags.DEFINE_bool(
    "stats", False, "Length and time of answers are told on stderr."
)
_CONNECT_S = flags.DEFINE_float(
    "connect_s", 5.0, "The client tries to connect for so long."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A server has answered, and its tokenizer is here."""

    stub: pb_grpc.VllmEngineStub
    model_name: str
    tokenizer: Tokenizer
    metadata: tuple[tuple[str, str], ...]


class ClientError(RuntimeError):
    """The user is told this instead of a traceback."""


def connect(
    channel: grpc.Channel,
    *,
    address: str,
    timeout_s: float,
    metadata: tuple[tuple[str, str], ...] = (),
) -> Connection:
    """Asks the server for its model and its tokenizer.

    Raises:
      ClientError: nobody answers, or the tokenizer cannot be had.
    """
    stub = pb_grpc.VllmEngineStub(channel)
    try:
        grpc.channel_ready_future(channel).result(timeout=timeout_s)
    except grpc.FutureTimeoutError as error:
        raise ClientError(
            f"no server answers at {address}; start one with `mell-serve`, or name "
            "another with --address"
        ) from error
    try:
        info = stub.GetModelInfo(
            pb.GetModelInfoRequest(), timeout=timeout_s, metadata=metadata
        )
        tokenizer = _find_tokenizer(stub, path=info.tokenizer_path, metadata=metadata)
    except grpc.RpcError as error:
        raise ClientError(_explain(error)) from error
    except ValueError as error:
        raise ClientError(str(error)) from error
    return Connection(
        stub=stub,
        model_name=info.served_model_name,
        tokenizer=tokenizer,
        metadata=metadata,
    )


def stream_text(
    connection: Connection, *, prompt: str, sampling: pb.SamplingParams
) -> Iterator[str]:
    """Yields the answer in pieces, as they come.

    Closing the iterator early cancels the request.

    Raises:
      ClientError: the server refused the request or failed.
    """
    text = OutputText(
        connection.tokenizer,
        stops=tuple(sampling.stop),
        include_stop=sampling.include_stop_str_in_output,
        skip_special_tokens=sampling.skip_special_tokens,
        min_tokens=sampling.min_tokens,
        continues_text=True,
    )
    request = pb.GenerateRequest(text=prompt, sampling_params=sampling, stream=True)
    call = connection.stub.Generate(request, metadata=connection.metadata)
    try:
        for response in call:
            if piece := text.add(response.chunk.token_ids).text:
                yield piece
        if piece := text.finish().text:
            yield piece
    except grpc.RpcError as error:
        raise ClientError(_explain(error)) from error
    finally:
        call.cancel()  # does nothing after the end


def _find_tokenizer(
    stub: pb_grpc.VllmEngineStub, *, path: str, metadata: tuple[tuple[str, str], ...]
) -> Tokenizer:
    """Loads it from the server's files if they are here, else from the server."""
    if path and Path(path).exists():
        return load_tokenizer(Path(path))
    with tempfile.TemporaryDirectory() as directory:
        chunks = stub.GetTokenizer(common_pb2.GetTokenizerRequest(), metadata=metadata)
        unpack(chunks, directory=Path(directory))
        return load_tokenizer(Path(directory))


def _explain(error: grpc.RpcError) -> str:
    return f"{error.code().name}: {error.details()}"


def _sampling_from_flags() -> pb.SamplingParams:
    return pb.SamplingParams(
        temperature=_TEMPERATURE.value,
        top_p=_TOP_P.value,
        top_k=_TOP_K.value,
        max_tokens=_MAX_TOKENS.value,
        seed=_SEED.value,
        stop=_STOP.value,
        ignore_eos=_IGNORE_EOS.value,
        skip_special_tokens=True,
    )


def _metadata_from_flags() -> tuple[tuple[str, str], ...]:
    """Raises ClientError when the token cannot be read."""
    bearer = None
    if _TOKEN_FILE.value is not None:
        bearer = f"Bearer {_read(_TOKEN_FILE.value).decode().strip()}"
    named = (
        ("x-mell-model", _MODEL.value),
        ("x-mell-tenant", _TENANT.value),
        ("authorization", bearer),
    )
    return tuple((key, value) for key, value in named if value is not None)


def _channel_from_flags() -> grpc.Channel:
    """Raises ClientError when the certificates cannot be read."""
    if _TLS_CA.value is None:
        return grpc.insecure_channel(_ADDRESS.value)
    roots = grpc.ssl_channel_credentials(root_certificates=_read(_TLS_CA.value))
    return grpc.secure_channel(_ADDRESS.value, roots)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ClientError(f"cannot read {path}: {error.strerror}") from error


def _answer(connection: Connection, *, prompt: str) -> None:
    started_s = time.monotonic()
    num_chars = 0
    pieces = stream_text(connection, prompt=prompt, sampling=_sampling_from_flags())
    try:
        for piece in pieces:
            num_chars += len(piece)
            print(piece, end="", flush=True)
    finally:
        print(flush=True)
    if _STATS.value:
        elapsed_s = time.monotonic() - started_s
        print(f"[{num_chars} characters in {elapsed_s:.2f} s]", file=sys.stderr)


def _chat(connection: Connection) -> None:
    """Answers line after line; Ctrl-C ends an answer, Ctrl-D the program."""
    print(f"{connection.model_name} continues what you write. Ctrl-D leaves.")
    while True:
        try:
            prompt = input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(Ctrl-D leaves)")
            continue
        if not prompt:
            continue
        try:
            _answer(connection, prompt=prompt)
        except KeyboardInterrupt:
            print("(stopped)")
        except ClientError as error:
            print(error, file=sys.stderr)


def main(argv: Sequence[str]) -> int:
    prompt = " ".join(argv[1:])
    try:
        metadata = _metadata_from_flags()
        with _channel_from_flags() as channel:
            connection = connect(
                channel,
                address=_ADDRESS.value,
                timeout_s=_CONNECT_S.value,
                metadata=metadata,
            )
            if prompt:
                _answer(connection, prompt=prompt)
            else:
                _chat(connection)
    except ClientError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def run() -> None:
    app.run(main)


if __name__ == "__main__":
    run()
