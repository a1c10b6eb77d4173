"""What is told of links that cannot be had, and of who gets none."""

import logging
import socket
import ssl

import pytest

from mell_jax.events import LOGGER_NAME
from mell_jax.hosts.link import RefusedError
from mell_jax.hosts.refusals import Refusals
from mell_jax.hosts.seek import Seeking, why

NOBODY = ConnectionRefusedError(111, "Connection refused")


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_lines_come_ever_more_seldom_and_the_search_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    seeking = Seeking("10.0.0.1:7000", clock=clock)
    told_s = []
    for tenth in range(4000):
        clock.now_s = 1000.0 + tenth / 10
        caplog.clear()
        seeking.missed(NOBODY)
        if caplog.records:
            told_s.append(tenth / 10)
    assert told_s == pytest.approx([0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 303, 363])
    clock.now_s += 1000.0
    caplog.clear()
    seeking.missed(NOBODY)
    assert "10.0.0.1:7000: nobody listens there" in caplog.text
    assert "(4001 tries in 1400 s)" in caplog.text
    seeking.found()
    caplog.clear()
    seeking.missed(NOBODY)
    assert "tries" not in caplog.text


def ssl_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (NOBODY, "nobody listens there"),
        (TimeoutError(), "nobody answers in time"),
        (socket.gaierror(-2, "Name or service not known"), "no machine of that name"),
        (ssl_error("TLSV1_ALERT_UNKNOWN_CA"), "does not take our certificate"),
        (ssl_error("WRONG_VERSION_NUMBER"), "does not speak TLS: give fleet_tls_ca at"),
        (RefusedError("it has another secret"), "it has another secret"),
        (OSError(), "OSError"),
    ],
)
def test_it_is_told_why_there_is_no_link(error: Exception, what: str) -> None:
    assert what in why(error)


def test_who_is_refused_is_told_once_a_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger=LOGGER_NAME)
    clock = Clock()
    refusals = Refusals(clock=clock)
    for _ in range(5):
        refusals.tell(("10.0.0.9", 41), error=RefusedError("it has another secret"))
    assert caplog.messages == [
        "a connection from 10.0.0.9:41 is refused: it has another secret"
    ]
    clock.now_s += 1.0
    refusals.tell(None, error=EOFError())
    assert caplog.messages[1:] == [
        "a connection from somebody is refused: EOFError; 4 more before"
    ]
