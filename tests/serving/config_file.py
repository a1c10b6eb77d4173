"""Settings of `mell-serve` that are no flags."""

from pathlib import Path


def config_flag(directory: Path, text: str) -> str:
    """Writes TOML into `directory`; returns the flag that names the file."""
    path = directory / "mell.toml"
    path.write_text(text)
    return f"--config={path}"
