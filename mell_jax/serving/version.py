"""Clients are told this version."""

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """Returns the version of this package; "0" in a checkout."""
    try:
        return version("mell_jax")
    except PackageNotFoundError:  # run from a checkout
        return "0"
