"""The directories of a mirror on its host."""

from pulumi.dynamic import ResourceProvider


class HostDirectoriesProvider(ResourceProvider):
    """Makes, owns and (asked to) purges the directories below a data root."""
