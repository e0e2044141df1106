"""`python -m tests.sandbox.engine ARGS`: the `pulumi` command."""

import sys

from tests.sandbox.engine.cli import main

sys.exit(main(sys.argv[1:]))
