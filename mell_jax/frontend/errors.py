"""A request can fail in these ways besides being invalid (`InvalidRequestError`)."""


class EngineDeadError(RuntimeError):
    """The engine stopped before the request's end; a fresh attempt may succeed."""

    def __init__(self, cause: str, *, tokens_sent: int) -> None:
        """Takes a cause and the tokens, of all samples, that the caller already got."""
        super().__init__(
            f"{cause or 'the engine has stopped'}; {tokens_sent} tokens had been sent"
        )
        self.tokens_sent = tokens_sent


class RequestFailedError(RuntimeError):
    """The engine gave up this one request; the message is for the operator's log."""


class DuplicateRequestError(ValueError):
    """A request of this id is still open."""

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"request_id {request_id!r} is in flight; wait for its end or choose "
            "another id"
        )


class UnknownModelError(LookupError):
    """The request names a model that is not served here."""


class OverloadedError(RuntimeError):
    """The front end has more than it takes; try again later."""

    def __init__(
        self, message: str, *, retry_after_s: float, reason: str = "overloaded"
    ) -> None:
        """Takes a message; `reason` is one of few words, for counting."""
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.reason = reason


class QueueTimeoutError(TimeoutError):
    """The request waited too long for its first token; nothing was sent."""

    def __init__(self, waited_s: float, *, rest: str = "") -> None:
        """Takes how long it waited; `rest` says what an engine does without steps."""
        why = f"the engine {rest}" if rest else "the server has too much to do"
        super().__init__(
            f"no token within {waited_s:g} s: {why}; try again later or ask another one"
        )


class RequestTimeoutError(TimeoutError):
    """The request ran for longer than any request may."""

    def __init__(self, ran_s: float, *, rest: str = "") -> None:
        """Takes how long it ran; `rest` says what an engine does without steps."""
        way_out = f"the engine {rest}: try again later" if rest else ""
        super().__init__(
            f"not done within {ran_s:g} s, the longest that a request may take; "
            f"{way_out or 'ask for fewer tokens'}"
        )
