"""Configuration and secret files on the host."""

from pulumi.dynamic import ResourceProvider


class HostFilesProvider(ResourceProvider):
    """Writes small files atomically and tells when they drift."""
