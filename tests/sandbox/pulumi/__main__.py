"""`python -m tests.sandbox.pulumi`: have the Pulumi CLI, and tell where it is."""

import sys

from rich.console import Console

from tests.sandbox.pulumi import cli

print(cli.ensure(Console(file=sys.stderr)))
