"""Both sides of a new connection prove that they know the fleet's secret.

    who listens                                  who connects
        |--- Challenge (nonce) ------------------------>|
        |<-- Hello, Proof (nonce, digest of both) ------|
        |--- Proof (digest of both, as who listens) --->|

Nothing else is said or heard before. The rules are here, without a socket.
"""

import hmac
import secrets
from typing import final

from mell_jax.hosts.wire import Challenge, Hello, Proof


class RefusedError(ConnectionError):
    """The other side does not know the secret, or is not who it should be."""


@final
class ConnectingProof:
    """This is the part of who connects, after a challenge."""

    def __init__(self, secret: bytes, challenge: Challenge) -> None:
        self._secret, self._theirs = secret, challenge.nonce
        self._nonce = secrets.token_bytes(32)

    def proof(self) -> Proof:
        """Returns what is to be sent after the hello."""
        digest = _digest(self._secret, b"connects", self._theirs, self._nonce)
        return Proof(nonce=self._nonce, digest=digest)

    def check(self, proof: Proof) -> None:
        """Looks at the answer.

        Raises:
          RefusedError: the other side does not know the secret.
        """
        due = _digest(self._secret, b"listens", self._nonce, self._theirs)
        if not hmac.compare_digest(proof.digest, due):
            raise RefusedError(
                "whoever listens there has another secret: give both the same "
                "fleet_secret_file"
            )


@final
class ListeningProof:
    """This is the part of who listens."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._nonce = secrets.token_bytes(32)

    def challenge(self) -> Challenge:
        """Returns what is said first."""
        return Challenge(nonce=self._nonce)

    def answer(self, proof: Proof, *, hello: Hello) -> Proof:
        """Returns what is to be sent to who has proved itself.

        Raises:
          RefusedError: the other side does not know the secret.
        """
        due = _digest(self._secret, b"connects", self._nonce, proof.nonce)
        if not hmac.compare_digest(proof.digest, due):
            raise RefusedError(
                f"{hello.role} {hello.name!r:.100} has another secret: give both the "
                "same fleet_secret_file"
            )
        digest = _digest(self._secret, b"listens", proof.nonce, self._nonce)
        return Proof(nonce=self._nonce, digest=digest)


def check_kind(message: object, kind: type) -> None:
    """Looks at a message of the beginning.

    Raises:
      RefusedError: another one is due.
    """
    if not isinstance(message, kind):
        raise RefusedError(f"{type(message).__name__} where a {kind.__name__} is due")


def _digest(secret: bytes, *parts: bytes) -> bytes:
    return hmac.digest(secret or b"mell", b"".join(parts), "sha256")
