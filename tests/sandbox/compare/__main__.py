"""`python -m tests.sandbox.compare run|record|list [CASE…]`."""

import sys

from tests.sandbox.compare.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
