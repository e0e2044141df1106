"""What the host must be before the first change."""

from pulumi.dynamic import ResourceProvider


class PreflightProvider(ResourceProvider):
    """Checks the host; all findings at once."""
