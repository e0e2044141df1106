"""`python -m tests.sandbox.plugins NAME ENGINE_ADDRESS`: serve a stand-in plugin."""

import sys

from tests.sandbox.plugins.serve import main

sys.exit(main(sys.argv[1:]))
