"""The chat client and mell-top at a server with TLS and tokens, as processes."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from mell_jax.serving.security.config import SecurityConfig
from tests.serving.certificates import Authority
from tests.serving.harness import run, serving

TOKEN = "tool-0123456789abcdef"


async def tool(module: str, *args: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", module, *args],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_tools_get_in_with_certificate_and_token(
    letters_dir: Path, tmp_path: Path
) -> None:
    ours = Authority("ours")
    cert, key = ours.sign("server").write(tmp_path, "server")
    ca, token, tokens = (tmp_path / name for name in ("ca.pem", "token", "tokens"))
    ca.write_bytes(ours.certificate)
    token.write_text(f"{TOKEN}\n")
    entry = {"token": TOKEN, "tenant": "me", "rights": ["generate", "metrics"]}
    tokens.write_text(json.dumps({"tokens": [entry]}))

    async def scenario() -> None:
        security = SecurityConfig(tls_cert=cert, tls_key=key, tokens_file=str(tokens))
        async with serving(directory=letters_dir, http_port=0, security=security) as s:
            known = (f"--tls_ca={ca}", f"--token_file={token}")
            chat = f"--address={s.address}", "--max_tokens=6", "c"
            look = f"--address=https://{s.http}", "--once", "--interval_s=0.01"
            done = await tool("mell_jax.client", *known, *chat)
            assert (done.stdout, done.stderr) == ("cflxqc\n", "")
            done = await tool("mell_jax.client", known[0], *chat)
            assert done.returncode == 1
            assert done.stderr.startswith("UNAUTHENTICATED: a token is needed")
            done = await tool("mell_jax.top", *known, *look)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith("mell-top  letters")
            done = await tool("mell_jax.top", known[0], *look)
            assert (done.returncode, done.stdout) == (1, "")
            assert "Unauthorized" in done.stderr

    run(scenario)


def test_a_token_file_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    async def scenario() -> None:
        missing = f"--token_file={tmp_path / 'none'}"
        done = await tool("mell_jax.client", missing, "c")
        assert done.returncode == 1
        assert done.stderr.startswith("cannot read ")
        assert done.stderr.count("\n") == 1
        done = await tool("mell_jax.top", missing)
        assert done.returncode == 1
        assert done.stderr.startswith("mell-top: ")
        assert done.stderr.count("\n") == 1

    run(scenario)
