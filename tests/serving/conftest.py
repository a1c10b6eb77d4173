from pathlib import Path

import pytest

from tests.serving.fake_engine import write_letters_tokenizer


@pytest.fixture(scope="session")
def letters_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_letters_tokenizer(tmp_path_factory.mktemp("letters"))
