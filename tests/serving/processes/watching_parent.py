"""Processes to be left alone: parent PATIENCE_S | blocks PATIENCE_S FD | echoes ...

parent    starts one that blocks, tells its number, and waits
blocks    stops its event loop for ever, as a bug would
echoes    answers each byte with the same; at the end of file it ends with status 7
"""

import asyncio
import socket
import subprocess
import sys
import time

from mell_jax.serving.processes.child import main

ORDERLY = 7


async def block(sock: socket.socket) -> int:
    print("blocked", flush=True)
    while True:
        time.sleep(1000.0)


async def echo(sock: socket.socket) -> int:
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    while data := await reader.read(1):
        writer.write(data)
    return ORDERLY


def be_parent(patience: str) -> int:
    ours, theirs = socket.socketpair()
    number = str(theirs.fileno())
    with ours, theirs:
        child = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "blocks", patience, number],
            pass_fds=(theirs.fileno(),),
            process_group=0,
        )
        theirs.close()
        print(child.pid, flush=True)
        return child.wait()


if __name__ == "__main__":
    role, patience = sys.argv[1:3]
    if role == "parent":
        sys.exit(be_parent(patience))
    work = block if role == "blocks" else echo
    sys.exit(main(sys.argv[2:], work=work, patience_s=float(patience)))
