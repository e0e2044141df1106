"""A `pulumi` command for machines without the Pulumi CLI.

It speaks the ResourceMonitor, Engine and ResourceProvider services whose stubs the `pulumi`
wheel ships, keeps the state file, the local-backend layout and the passphrase encryption of
the real CLI, and refuses by name whatever is not on its closed list (`cli.CLOSED_LIST`). It is
a test double, kept honest by `tests.sandbox.compare`.
"""

# The release of the real CLI whose behaviour and state format this package follows.
VERSION = "v3.260.0"
