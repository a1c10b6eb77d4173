from pathlib import Path

import pytest

from tests.serving.fake_engine import write_letters_tokenizer


@pytest.fixture(scope="session")
def letters_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_letters_tokenizer(tmp_path_factory.mktemp("letters"))


@pytest.fixture(scope="session")
def compiled_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `RunningServer` compiles, so that only the first one takes long to start."""
    return tmp_path_factory.mktemp("compiled")
