"""The one error that a file on disk can cause."""


class CheckpointError(ValueError):
    """A model directory that cannot be used; the message says which file and why."""
