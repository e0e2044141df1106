"""One family of exceptions for everything that can go wrong with a 0-db."""

from typing import Self


class ZdbError(Exception):
    """A 0-db could not be reached, refused, or broke the protocol; `str()` says which.

    at: HOST:PORT of the 0-db, empty where it is not known.
    """

    at = ""

    def by(self, at: str) -> Self:
        """Return this error as one of the 0-db at HOST:PORT."""
        self.at = at
        return self


class ZdbConnectionError(ZdbError):
    """The connection could not be made or was lost: trying again may help."""


class ZdbTimeoutError(ZdbConnectionError):
    """Nothing, or too little, came in time: trying again may help."""


class ZdbProtocolError(ZdbError):
    """The bytes that came are no 0-db's, or pass a limit: trying again does not help."""


class ZdbReplyError(ZdbError):
    """The server answered an error; `reason` is its text without the leading dash."""

    def __init__(self, reason: str, command: str = "") -> None:
        super().__init__(f"{command}: {reason}" if command else reason)
        self.reason = reason


class ZdbAuthError(ZdbError):
    """The password or the namespace was refused: a person has to correct the settings."""
