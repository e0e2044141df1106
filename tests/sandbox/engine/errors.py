"""The errors that end a command with a message and no traceback; exit codes as the real CLI's."""

from __future__ import annotations


class EngineError(Exception):
    """A failure to tell the user."""

    exit_code = 1


class UsageError(EngineError):
    """A command called in a way that it can not be."""

    exit_code = 2


class StackNotFoundError(EngineError):
    """A stack that is not there."""

    exit_code = 6


class NoChangesExpectedError(EngineError):
    """Changes where `--expect-no-changes` expected none."""

    exit_code = 7


class RefusedError(EngineError):
    """Something that is not on the closed list of what this engine knows."""


class Bail(EngineError):  # noqa: N818 - it is a way out, its error has been shown
    """A failure whose diagnostics have been shown already."""
