"""Small files on the host: the services' configuration and secrets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

from components.host import Placement
from sync.providers.resources import HostFiles


@dataclass(frozen=True)
class HostFile:
    """A small file below the data root; path: relative to it."""

    path: str
    uid: int
    content: pulumi.Input[str]
    mode: int = 0o400


def write_files(
    name: str, placement: Placement, parent: pulumi.Resource, *files: HostFile
) -> HostFiles:
    """Declare files on the host, written atomically and readable by their owner only."""
    return HostFiles(
        name,
        host=placement.connection,
        root=placement.settings.data_root,
        files=[dict(vars(file)) for file in sorted(files, key=lambda file: file.path)],
        opts=placement.options(parent),
    )


def python_config(config: Mapping[str, Any]) -> str:
    """Return a Python module with one mapping, `config`, as hub and bootstrap read theirs.

    Sorted, one key a line, equal for equal mappings. Values are literals (text, bytes, numbers,
    None, and lists and mappings of them), so that the file can be read without being run.
    """
    lines = (f"    {key!r}: {config[key]!r},\n" for key in sorted(config))
    return f"config = {{\n{''.join(lines)}}}\n"
