"""The configuration files of hub and bootstrap: Python modules with one `config` mapping."""

from collections.abc import Mapping
from typing import Any


def render(config: Mapping[str, Any]) -> str:
    """Return the module's text: sorted, one key a line, equal for equal mappings.

    Values are literals (text, bytes, numbers, None, and lists and mappings of them), so that the
    file can be read without being run.
    """
    lines = (f"    {key!r}: {config[key]!r},\n" for key in sorted(config))
    return f"config = {{\n{''.join(lines)}}}\n"
