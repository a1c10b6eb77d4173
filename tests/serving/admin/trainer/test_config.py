"""Who reaches trainers' routes is decided by the settings."""

import pytest

from mell_jax.serving.config import ServerConfig
from mell_jax.serving.security.config import SecurityConfig

TOKENS = SecurityConfig(tokens_file="/tokens.json")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "localhost", ""])
def test_others_than_this_machine_need_tokens(host: str) -> None:
    with pytest.raises(ValueError, match="admin_http_host must be 127"):
        ServerConfig(admin_http_host=host)
    config = ServerConfig(admin_http_host=host, security=TOKENS)
    assert not config.is_admin_local


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_this_machine_needs_none(host: str) -> None:
    assert ServerConfig(admin_http_host=host).is_admin_local


def test_folders_of_weights_are_absolute() -> None:
    with pytest.raises(ValueError, match="weights_dirs must be absolute, got 'b'"):
        ServerConfig(weights_dirs=("/a", "b"))


def test_a_port_has_one_use() -> None:
    with pytest.raises(ValueError, match="admin_http_port must not be http_port"):
        ServerConfig(http_port=8000, admin_http_port=8000)
    with pytest.raises(ValueError, match="admin_http_port must be from 0 to 65535"):
        ServerConfig(admin_http_port=-1)
