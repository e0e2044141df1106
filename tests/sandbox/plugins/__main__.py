"""`python -m tests.sandbox.plugins NAME ENGINE_ADDRESS`: serve a stand-in plugin."""

import sys

from tests.sandbox.plugins.stubs import import_stubs_only


def main() -> int:
    """Serve it, without the SDK in this process."""
    import_stubs_only()
    from tests.sandbox.plugins import serve

    return serve.main(sys.argv[1:])


sys.exit(main())
