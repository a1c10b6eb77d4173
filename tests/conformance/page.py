"""Chromium watches the page of a fleet: python page.py URL FILM [--seconds=30]

URL is a server of eight devices with `page_tokens.json`, FILM a page that
`mell-simulate --page` wrote. Runs in an environment of its own, without mell_jax; the
browser is the one that this machine has. `--shots=FOLDER` keeps what was seen.
"""

import argparse
import base64
import json
import re
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import (
    Browser,
    BrowserContext,
    CDPSession,
    ConsoleMessage,
    Page,
    sync_playwright,
)

TOKENS = json.loads((Path(__file__).parent / "page_tokens.json").read_text())["tokens"]
WATCHER, CLIENT = (each["token"] for each in TOKENS)
STREAMS = 40  # at once: each has a lane
DEVICES = 8
MEGABYTE = 2**20
MOST_GROWTH_BYTES = 1.5 * MEGABYTE
SETTLED_SHARE = 0.4  # of the time, after which memory is flat
PROBE = (Path(__file__).parent / "page_probe.js").read_text()
PINK = (255, 122, 184)  # of streams that moved, drawn over the others


class Load:
    """Clients that ask one thing after another, each until it is told to end."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self.tokens: list[int] = []  # of every answer
        self.failures: list[str] = []
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(STREAMS)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, number: int) -> None:
        asked = 0
        while not self._over.is_set():
            asked += 1
            try:
                self.tokens.append(self._ask(40 + (53 * number + 97 * asked) % 220))
            except OSError as error:
                self.failures.append(str(error))
                return

    def _ask(self, max_tokens: int) -> int:
        body = {
            "prompt": "Once upon a time, a client had a secret",
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "temperature": 1.0,
            "user": "the secret user",
        }
        request = urllib.request.Request(
            f"{self._url}/v1/completions",
            data=json.dumps(body).encode(),
            headers={
                "content-type": "application/json",
                "authorization": f"Bearer {CLIENT}",
                "x-request-id": "the secret id",
            },
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return int(json.load(answer)["usage"]["completion_tokens"])


def metric(url: str, name: str) -> float:
    """The sum of a metric's samples."""
    request = urllib.request.Request(
        f"{url}/metrics", headers={"authorization": f"Bearer {WATCHER}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        text = answer.read().decode()
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def heap_bytes(session: CDPSession) -> float:
    """What the tab still needs once its garbage is collected."""
    session.send("HeapProfiler.collectGarbage")
    return float(session.send("Runtime.getHeapUsage")["usedSize"])


class Watched:
    """An open page, what it has asked for, and what went wrong in it."""

    def __init__(self, context: BrowserContext, where: str) -> None:
        self.page = context.new_page()
        self.asked: list[str] = []
        self._faults: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self._faults.append(str(error)))
        self.page.on("console", self._hear)
        self.page.goto(where)

    def close(self) -> None:
        """Closes it; raises what went wrong."""
        self.page.context.close()
        assert not self._faults, self._faults

    def _hear(self, said: ConsoleMessage) -> None:
        if said.type == "error":
            self._faults.append(said.text)


def pixels(page: Page, canvas: str, colour: tuple[int, int, int]) -> int:
    return int(page.evaluate("given => probe.pixels(...given)", [canvas, colour]))


def wait_for(page: Page, condition: str, *, most_s: float = 30.0) -> None:
    """Waits until something holds in a page, whose policy lets it evaluate no text."""
    end_s = time.monotonic() + most_s
    while not page.evaluate(condition):
        assert time.monotonic() < end_s, f"waited {most_s:g} s for {condition}"
        page.wait_for_timeout(100)


def check_rights(url: str) -> None:
    """Nobody gets the page but those who may read metrics.

    Asked without the browser: it may hang as it closes a page that was refused.
    """
    for token, wanted in ((None, 401), (CLIENT, 403), (WATCHER, 200)):
        shown = base64.b64encode(f":{token}".encode()).decode()
        headers = {"authorization": f"Basic {shown}"} if token else {}
        for path in ("/fleet", "/fleet/events"):
            request = urllib.request.Request(f"{url}{path}", headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    got = answer.status
            except urllib.error.HTTPError as refusal:
                got = refusal.code
            assert got == wanted, (token, path, got)
    print("the page is for those who may read metrics")


def check_live(
    browser: Browser, url: str, *, seconds: float, shots: Path | None
) -> None:
    """The page of a fleet under load tells what its clients and its metrics tell."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 800},
        http_credentials={"username": "", "password": WATCHER},
    )
    watched = Watched(context, f"{url}/fleet")
    page, asked = watched.page, watched.asked
    session = context.new_cdp_session(page)
    wait_for(page, "model.count > 1")
    page.evaluate(PROBE)
    load = Load(url)
    load.start()
    page.wait_for_timeout(1000 * SETTLED_SHARE * seconds)
    before, start_s = heap_bytes(session), time.monotonic()
    count = page.evaluate("model.count")
    page.wait_for_timeout(1000 * (1 - SETTLED_SHARE) * seconds)
    per_s = (page.evaluate("model.count") - count) / (time.monotonic() - start_s)
    growth = heap_bytes(session) - before
    assert pixels(page, "gaps", PINK) > 50, "no gaps of moved streams"
    for kind in ("moved", "unmoved", "after"):
        assert page.inner_text(f"#{kind}-p50").endswith("s"), f"no gaps {kind}"
    if shots is not None:
        page.screenshot(path=shots / "live.png")
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_timeout(1500)
        page.screenshot(path=shots / "phone.png", full_page=True)
    load.end()
    assert not load.failures, load.failures[:3]
    wait_for(page, "model.moment.dots.numbers.length === 0")
    page.wait_for_timeout(1000)
    kept = page.evaluate("probe.kept")
    ticks = sorted(end - start for start, end in kept["ticks"].values())
    assert ticks == sorted(load.tokens), (ticks, sorted(load.tokens))
    assert page.evaluate("model.lostTicks") == 0
    tokens = metric(url, "mell:generation_tokens_total")
    assert page.evaluate("model.moment.totals.tokens") == tokens >= sum(load.tokens)
    moves = metric(url, "mell:migrations_between_total")
    assert page.evaluate("model.moment.totals.moves") == moves > 0
    assert 0.5 * moves < len(kept["moves"]) <= moves, (len(kept["moves"]), moves)
    assert page.inner_text("#broken") == "0"
    assert page.inner_text("#all") == str(DEVICES)
    assert set(asked) == {f"{url}/fleet", f"{url}/fleet/events"}, set(asked)
    assert "secret" not in page.evaluate("JSON.stringify(model.moment)")
    assert 1.4 < per_s < 2.3, f"{per_s} moments a second"
    assert growth < MOST_GROWTH_BYTES, f"the tab grew by {growth} bytes"
    drawn = sorted(kept["drawn"])
    print(
        f"{len(ticks)} streams, {sum(ticks)} ticks, {moves:.0f} moves, "
        f"{per_s:.2f} moments/s, {len(drawn) / seconds:.0f} pictures/s, the stage "
        f"drawn in {drawn[len(drawn) // 2]:.1f} ms "
        f"(p99 {drawn[len(drawn) * 99 // 100]:.1f}), "
        f"heap {before / MEGABYTE:.1f} MB, grew by {growth / MEGABYTE:.2f} MB"
    )
    watched.close()


def check_crowd(browser: Browser, url: str, *, shots: Path | None) -> None:
    """A thousand requests, a hundred of which are always moving, do not stall it."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 800},
        http_credentials={"username": "", "password": WATCHER},
    )
    watched = Watched(context, f"{url}/fleet")
    page = watched.page
    wait_for(page, "model.count > 1")
    page.evaluate(PROBE)
    page.evaluate("probe.take()")
    for number in range(24):
        page.evaluate("number => probe.crowd(number)", number)
        page.wait_for_timeout(250)
    if shots is not None:
        page.screenshot(path=shots / "crowd.png")
    assert page.inner_text("#open") == "1.00 k"
    drawn = sorted(page.evaluate("probe.kept.drawn"))
    middle, late = drawn[len(drawn) // 2], drawn[len(drawn) * 95 // 100]
    print(f"1,000 requests: the stage drawn in {middle:.1f} ms (p95 {late:.1f})")
    assert len(drawn) > 24, "pictures are too few"
    assert middle < 33, f"{middle} ms for a picture"
    watched.close()


def check_film(browser: Browser, path: Path, *, shots: Path | None) -> None:
    """A recorded run is played from a file, without a network."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, offline=True)
    watched = Watched(context, path.as_uri())
    page, asked = watched.page, watched.asked
    wait_for(page, "model.count > 3")
    assert page.inner_text("#play") == "Pause"
    assert int(page.inner_text("#in-use")) >= 1
    page.select_option("#speed", "240")
    wait_for(page, "!player.isPlaying", most_s=60)
    assert page.inner_text("#play") == "Play"
    moves = page.evaluate("model.moment.totals.moves")
    page.evaluate("seek(player.startS + 0.6 * (player.endS - player.startS))")
    assert 0 < page.evaluate("model.moment.totals.moves") < moves
    page.evaluate(PROBE)
    page.click("#play")
    page.wait_for_timeout(1500)
    assert pixels(page, "gaps", PINK) > 50
    if shots is not None:
        page.screenshot(path=shots / "film.png")
    assert asked == [path.as_uri()], asked
    print(f"a film of {path.stat().st_size / MEGABYTE:.1f} MB, {moves} moves")
    watched.close()


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("url")
    flags.add_argument("film", type=Path)
    flags.add_argument("--seconds", type=float, default=30.0)
    flags.add_argument("--shots", type=Path)
    given = flags.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        check_rights(given.url)
        check_live(browser, given.url, seconds=given.seconds, shots=given.shots)
        check_crowd(browser, given.url, shots=given.shots)
        check_film(browser, given.film.absolute(), shots=given.shots)
        browser.close()


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    main()
    print("the page shows what happens, to those who may see it, and asks nobody else")
