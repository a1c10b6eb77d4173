"""One port serves the tests of a file; what is behind it is new for each."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.serving.admin.fake_administration import FakeAdministration, trainers


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    fake: FakeAdministration
    client: httpx2.Client
    root: Path  # of folders from which weights may come

    def post(self, path: str, body: object = None) -> dict[str, object]:
        """What a call that succeeds answers."""
        answer = self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert isinstance(told, dict)
        return told


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("here")
    root = here / "weights"
    for name in ("step-1", "bad", "other", "broken", "unreadable"):
        (root / name).mkdir(parents=True)
    (here / "secret").mkdir()
    (root / "link").symlink_to(here / "secret")
    (root / "inner").symlink_to(root / "step-1")
    (root / "circle").symlink_to(root / "circle")
    return root


@pytest.fixture(scope="module")
def _served(root: Path) -> Iterator[Stage]:
    fake = FakeAdministration()
    with trainers(fake, weights_dirs=("/nowhere", str(root))) as client:
        yield Stage(fake=fake, client=client, root=root)


@pytest.fixture
def stage(_served: Stage) -> Stage:
    _served.fake.forget()
    return _served
