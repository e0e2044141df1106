"""The script that the workflows call, as a module."""

import importlib.util
from types import ModuleType
from typing import Final

from tests.program.declared import PROJECT

SCRIPT: Final = PROJECT / ".github" / "stacks.py"


def load() -> ModuleType:
    """Import it, from where no package is."""
    spec = importlib.util.spec_from_file_location("stacks_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
