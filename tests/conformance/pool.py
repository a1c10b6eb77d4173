"""A pooled aiohttp client, as gateways are: python pool.py URL

It keeps connections idle for longer than uvicorn's own five seconds and then posts on
them again; a POST on a connection that the server closes meanwhile is never repeated.
Runs in an environment of its own, without mell_jax.
"""

import asyncio
import sys

import aiohttp

CONNECTIONS = 40
ROUNDS = 3
IDLE_S = 6.0
BODY = {"model": "demo", "prompt": "Once upon a time", "max_tokens": 2}


async def check_pool(url: str) -> None:
    """Raises what went wrong on any connection."""
    connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=60)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def ask() -> str:
            async with session.post(f"{url}/v1/completions", json=BODY) as answer:
                assert answer.status == 200, await answer.text()
                return (await answer.json())["choices"][0]["text"]

        for number in range(ROUNDS):
            if number:
                await asyncio.sleep(IDLE_S)
            texts = await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
            assert all(texts), texts


if __name__ == "__main__":
    asyncio.run(check_pool(sys.argv[1]))
    print(f"{ROUNDS} rounds on {CONNECTIONS} connections, none was reset")
