"""`python -m tests.sandbox.pulumi`: have the Pulumi CLI, and tell where it is."""

import signal
import sys

from rich.console import Console

from tests.sandbox.pulumi import cli

# Told to end, it ends the build as well.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print(cli.ensure(Console(file=sys.stderr)))
