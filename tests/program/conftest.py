"""Settings of the program's tests."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the warnings that the Cloudflare SDK gives about parts of its own."""
    quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning:pulumi_cloudflare")
    for item in items:
        if "tests/program" in str(item.path):
            item.add_marker(quiet)
