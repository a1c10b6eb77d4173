"""The page is one HTML file, with its style and its scripts inside.

    static/fleet.html + fleet.css + *.js (+ a film as JSON) -> one text

Its policy lets a browser run these very scripts, named by their digests, and talk to
the server that the page came from, or to nobody where a film is inside.
"""

import base64
import hashlib
from dataclasses import dataclass
from importlib import resources

SCRIPTS = ("model.js", "canvas.js", "stage.js", "lanes.js", "charts.js", "main.js")
"""In the order in which they are run: later ones use earlier ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page is a text and what a browser may do with it."""

    html: str
    policy: str  # of `Content-Security-Policy`


def live_page() -> Page:
    """Returns the page that listens to the server that it came from."""
    style, script = _style(), _script()
    policy = _policy(style=style, script=script, connect="'self'")
    return Page(
        html=_filled(style=style, script=script, policy=policy, film=""),
        policy=f"{policy}; frame-ancestors 'none'",  # which no file can say of itself
    )


def film_page(film: bytes) -> Page:
    """Returns the page that plays a film, which is JSON, and needs no server."""
    style, script = _style(), _script()
    policy = _policy(style=style, script=script, connect="'none'")
    text = film.decode("utf-8").replace("<", "\\u003c")  # the end of no script
    return Page(
        html=_filled(style=style, script=script, policy=policy, film=text),
        policy=policy,
    )


def _policy(*, style: str, script: str, connect: str) -> str:
    return (
        f"default-src 'none'; script-src {_digest(script)}; "
        f"style-src {_digest(style)}; img-src data:; connect-src {connect}; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _filled(*, style: str, script: str, policy: str, film: str) -> str:
    """Returns the frame with its parts; a part is never looked through for others."""
    frame = _read("fleet.html")
    parts = {"POLICY": policy, "STYLE": style, "FILM": film, "SCRIPT": script}
    filled = ""
    for name, part in parts.items():
        before, frame = frame.split(f"{{{{{name}}}}}")
        filled += before + part
    return filled + frame


def _style() -> str:
    return _read("fleet.css")


def _script() -> str:
    return "\n".join(_read(name) for name in SCRIPTS)


def _read(name: str) -> str:
    folder = resources.files("mell_jax.page") / "static"
    return (folder / name).read_text(encoding="utf-8")
