"""The client against a server in this process, whose engine waits for the test."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

from smg_grpc_proto.generated import common_pb2

from tests.serving.harness import run, serving

ROOT = Path(__file__).parents[2]


def test_ctrl_c_ends_the_answer_and_not_the_chat(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, is_manual=True) as s:
            client = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "mell_jax.client", f"--address={s.address}"),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert client.stdin is not None and client.stdout is not None
            client.stdin.write(b"a\n")
            await s.until(lambda: len(s.engine.submits) == 1)
            s.engine.step()
            greeting = await client.stdout.readline()
            assert greeting.startswith(b"letters continues what you write")
            assert await client.stdout.readexactly(3) == b"> a"
            client.send_signal(signal.SIGINT)
            await s.until(lambda: len(s.engine.aborts) == 1)
            client.stdin.write(b"c\n")
            await s.until(lambda: len(s.engine.submits) == 2)
            client.send_signal(signal.SIGINT)
            client.stdin.close()  # Ctrl-D
            rest, _ = await client.communicate()
            assert rest == b"\n(stopped)\n> \n(stopped)\n> \n"
            assert client.returncode == 0
            await s.idle()

    run(scenario)


def test_ctrl_c_ends_a_single_answer_and_the_program(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, is_manual=True) as s:
            client = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "mell_jax.client", "a"),
                f"--address={s.address}",
                cwd=ROOT,
                stdout=subprocess.PIPE,
            )
            await s.until(lambda: len(s.engine.submits) == 1)
            s.engine.step()
            assert client.stdout is not None
            assert await client.stdout.readexactly(1) == b"a"  # it waits for more now
            client.send_signal(signal.SIGINT)
            assert await client.communicate() == (b"\n", None)
            assert client.returncode == 130
            await s.until(lambda: len(s.engine.aborts) == 1)

    run(scenario)


def test_a_tokenizer_elsewhere_is_fetched(letters_dir: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        moved = tmp_path / "moved"
        moved.mkdir()
        for path in letters_dir.iterdir():
            (moved / path.name).write_bytes(path.read_bytes())
        async with serving(directory=moved) as s:
            await s.stub.GetTokenizer(
                common_pb2.GetTokenizerRequest()
            ).read()  # the server keeps it
            for path in moved.iterdir():
                path.unlink()
            moved.rmdir()
            client = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "mell_jax.client", "--max_tokens=5", "c"),
                f"--address={s.address}",
                cwd=ROOT,
                stdout=subprocess.PIPE,
            )
            assert await client.communicate() == (b"cflxq\n", None)

    run(scenario)
