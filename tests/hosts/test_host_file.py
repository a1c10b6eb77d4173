from pathlib import Path

import pytest

from mell_jax.hosts.host_file import HostLine, read_hosts


def read(tmp_path: Path, text: str) -> tuple[HostLine, ...]:
    path = tmp_path / "hosts"
    path.write_text(text)
    return read_hosts(path)


def test_a_file_names_hosts_with_their_flags(tmp_path: Path) -> None:
    text = """
    # name   where           flags
    left     local           --mesh=2x1  --model='/my models/llama'

    right    ops@10.0.0.7    # a comment
    """
    left, right = read(tmp_path, text)
    assert left == HostLine(
        name="left", where="local", flags=("--mesh=2x1", "--model=/my models/llama")
    )
    assert right == HostLine(name="right", where="ops@10.0.0.7", flags=())
    assert (left.is_local, right.is_local) == (True, False)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "names no host: write one in a line"),
        ("# nobody\n\n", "names no host"),
        ("left", ":1: 'left' is nowhere: say local, or an ssh target"),
        ("\nleft --mesh=2x1", ":2: '--mesh=2x1' is no place"),
        ("left local 'open", ":1: No closing quotation"),
        ("a local\nb local\na there", "names two hosts 'a'"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, text: str, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        read(tmp_path, text)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_hosts(tmp_path / "none")
