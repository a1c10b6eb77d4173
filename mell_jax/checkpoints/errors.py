"""A file on disk can cause this one error."""


class CheckpointError(ValueError):
    """A model directory cannot be used; the message says which file and why."""
