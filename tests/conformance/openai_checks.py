"""What the openai client must get, from whomever: python openai_checks.py URL

The server has the demo model and the template `chat.jinja`. Runs in an environment of
its own, without mell_jax.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import openai

PROMPT = "Once upon a time"


def check_all(client: openai.OpenAI) -> None:
    """Raises what went wrong."""
    check_completions(client)
    check_chat(client)
    check_refusals(client)
    check_leaving(client)
    check_completions(client)


def check_completions(client: openai.OpenAI) -> None:
    def ask(**more: object) -> openai.types.Completion:
        asked = {"model": "demo", "prompt": PROMPT, "temperature": 0, "max_tokens": 24}
        return client.completions.create(**{**asked, **more})

    answer = ask()
    text = answer.choices[0].text
    assert len(text) > 20, text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 24
    parts = [part.choices[0].text for part in ask(stream=True) if part.choices]
    assert "".join(parts) == text
    assert len(parts) > 5, f"{len(parts)} parts are no stream"
    word = text.split()[3]
    stopped = ask(stop=[word])
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].text == text[: text.index(word)]
    assert len(ask(n=3, temperature=1.0).choices) == 3
    seeded = [ask(temperature=1.0, seed=7).choices[0].text for _ in range(2)]
    assert seeded[0] == seeded[1] != text
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda _: ask().choices[0].text, range(32)))
    assert together == [text] * 32


def check_chat(client: openai.OpenAI) -> None:
    asked = {
        "model": "demo",
        "messages": [{"role": "user", "content": PROMPT}],
        "temperature": 0,
        "max_completion_tokens": 24,
    }
    answer = client.chat.completions.create(**asked)
    text = answer.choices[0].message.content
    assert len(text) > 20, text
    stream = client.chat.completions.create(**asked, stream=True)
    parts = [p.choices[0].delta.content or "" for p in stream if p.choices]
    assert "".join(parts) == text


def check_refusals(client: openai.OpenAI) -> None:
    for error, asked in (
        (openai.NotFoundError, {"model": "none"}),
        (openai.BadRequestError, {"prompt": ""}),
        (openai.BadRequestError, {"prompt": "a " * 5000}),
        (openai.BadRequestError, {"temperature": -1}),
        (openai.BadRequestError, {"max_tokens": 10**6}),
        (openai.BadRequestError, {"n": 10**6}),
    ):
        try:
            client.completions.create(**{"model": "demo", "prompt": PROMPT, **asked})
        except error:
            continue
        raise AssertionError(f"{asked} was taken")


def check_leaving(client: openai.OpenAI) -> None:
    """Readers who leave harm nobody."""
    for _ in range(4):
        stream = client.completions.create(
            model="demo", prompt=PROMPT, max_tokens=900, stream=True
        )
        next(iter(stream))
        stream.close()


def main(url: str) -> None:
    check_all(openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0))
    print("openai: all is well")


if __name__ == "__main__":
    main(sys.argv[1])
