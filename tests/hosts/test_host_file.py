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


def test_a_flag_may_have_its_value_as_the_next_word(tmp_path: Path) -> None:
    (left,) = read(tmp_path, "left local --mesh 2x1 --verbose")
    assert left.flags == ("--mesh", "2x1", "--verbose")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "names no host: write one in a line"),
        ("# nobody\n\n", "names no host"),
        ("left", ":1: 'left' is nowhere: say local, or an ssh target"),
        ("\nleft --mesh=2x1", ":2: '--mesh=2x1' is no place"),
        ("left local 'open", ":1: No closing quotation"),
        ("a local\nb local\na there", ":3: 'a' is the host of line 1, too: give each"),
        ("left local mesh=2x1", ":1: 'mesh=2x1' is no flag: write --NAME=VALUE, got"),
        ("left local --mesh 2x1 more", ":1: 'more' is no flag"),
        ("--left local", ":1: '--left' is no name"),
        ("left local --join=a:1", ":1: '--join=a:1' is for the head to say: leave"),
        ("left local --host_name=x", "leave it out, got 'left local --host_name=x'"),
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
