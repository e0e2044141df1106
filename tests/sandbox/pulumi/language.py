"""`python -m tests.sandbox.pulumi.language ENGINE_ADDRESS`: serve the language host."""

import sys

from tests.sandbox.plugins.stubs import import_stubs_only


def main() -> int:
    """Serve it, without the SDK in this process."""
    import_stubs_only()
    from tests.sandbox.pulumi import language_host

    return language_host.main(sys.argv[1:])


sys.exit(main())
