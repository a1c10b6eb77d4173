"""The page is one file that asks for nothing else, by a policy of its own."""

import base64
import hashlib
import html.parser
import json
import re

import pytest

from mell_jax.page.html import Page, film_page, live_page


class Parts(html.parser.HTMLParser):
    """What a browser would fetch, run or show."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self.inside: dict[str, str] = {}
        self._name = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.fetched += [given[n] or "" for n in ("src", "href") if n in given]
        self.handlers += [n for n in given if n.startswith("on") or n == "style"]
        self._name = str(given.get("id", tag)) if tag in ("script", "style") else ""
        if given.get("http-equiv") == "Content-Security-Policy":
            self.inside["policy"] = given["content"] or ""

    def handle_data(self, data: str) -> None:
        if self._name:
            self.inside[self._name] = data
            self._name = ""


def parts_of(page: Page) -> Parts:
    parts = Parts()
    parts.feed(page.html)
    return parts


def digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@pytest.mark.parametrize("page", [live_page(), film_page(b'{"moments":[]}')])
def test_a_page_has_everything_inside_and_runs_only_that(page: Page) -> None:
    parts = parts_of(page)
    assert parts.fetched == ["data:,"]  # no icon
    assert parts.handlers == []
    assert "{{" not in page.html
    for name, kind in (("script", "script-src"), ("style", "style-src")):
        assert f"{kind} 'sha256-{digest(parts.inside[name])}'" in page.policy
    assert page.policy.startswith("default-src 'none'; ")
    assert "unsafe" not in page.policy and "*" not in page.policy
    assert not re.search(r"https?://", page.html)
    assert parts.inside["policy"] == page.policy.removesuffix(
        "; frame-ancestors 'none'"
    )


def test_a_live_page_talks_to_its_server_alone_and_is_in_no_frame() -> None:
    page = live_page()
    assert "connect-src 'self'" in page.policy
    assert "frame-ancestors 'none'" in page.policy
    assert parts_of(page).inside.get("film", "").strip() == ""


def test_a_film_talks_to_nobody() -> None:
    assert "connect-src 'none'" in film_page(b"{}").policy


def test_no_film_can_end_its_script_or_stand_for_another_part() -> None:
    film = json.dumps({"title": "</script><script>alert(1)</script> {{SCRIPT}}"})
    page = film_page(film.encode())
    inside = parts_of(page).inside
    assert json.loads(inside["film"]) == json.loads(film)
    assert digest(inside["script"]) in page.policy
    assert page.html.count("<script") == 2
