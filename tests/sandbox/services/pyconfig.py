"""The configuration files of hub and bootstrap: Python with one literal, `config = {…}`."""

import ast
from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    """A configuration file that can not be used."""


def load(path: Path) -> dict[str, Any]:
    """Read the `config` literal of a file without running it."""
    try:
        tree = ast.parse(path.read_text())
    except (OSError, SyntaxError) as error:
        raise ConfigError(f"{path}: {error}") from error
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "config":
            try:
                found = ast.literal_eval(statement.value)
            except ValueError as error:
                raise ConfigError(f"{path}: config must be a literal: {error}") from error
            if isinstance(found, dict):
                return found
    raise ConfigError(f"{path}: no `config = {{…}}` in it")


def required(config: dict[str, Any], *names: str) -> None:
    """Raise ConfigError naming the keys that are missing."""
    missing = [name for name in names if name not in config]
    if missing:
        raise ConfigError(f"config.py lacks {', '.join(missing)}")
