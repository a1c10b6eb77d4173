"""`mell-simulate --page` writes a page that plays the run, or a log of one."""

import json
import re
from pathlib import Path
from typing import Any

from tests.scheduler.simulator.test_command import SMALL, Shell, shell

__all__ = ["shell"]  # the fixture


def film_in(page: Path) -> dict[str, Any]:
    """The film that a page has inside."""
    found = re.search(r'id="film">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    film: dict[str, Any] = json.loads(found[1])
    return film


def test_a_run_is_written_as_a_page_with_what_was_printed(
    shell: Shell, tmp_path: Path
) -> None:
    page, log = tmp_path / "run.html", tmp_path / "log"
    figures = tmp_path / "figures.json"
    shell.run(*SMALL, f"--page={page}", f"--record={log}", f"--output_json={figures}")
    film = film_in(page)
    assert film["title"].endswith(", consolidate")
    moments = film["moments"]
    told = json.loads(figures.read_text())["policies"]["consolidate"]
    assert max(moment["in_use"] for moment in moments) == told["devices_peak"]
    assert moments[-1]["totals"]["moves"] == told["migrations"]
    again = tmp_path / "again.html"
    printed = shell.run(f"--replay={log}", f"--page={again}")
    assert "every plan as recorded" in printed
    assert film_in(again) == film | {"title": "log, consolidate"}


def test_a_page_needs_no_log_beside_it(shell: Shell, tmp_path: Path) -> None:
    page = tmp_path / "run.html"
    shell.run(*SMALL, "--policies=best_fit,repack", f"--page={page}")
    assert film_in(page)["title"].endswith(", best_fit")
    assert list(tmp_path.iterdir()) == [page]


def test_a_page_plays_one_run(shell: Shell, tmp_path: Path) -> None:
    page = f"--page={tmp_path / 'run.html'}"
    for more in ("--policies=mell,best_fit", "--policies=repack", "--headroom=0,0.1"):
        assert "--page plays one run" in shell.refused(*SMALL, page, more)
    assert "no such folder" in shell.refused(*SMALL, "--page=/no/such/run.html")
    assert list(tmp_path.iterdir()) == []
