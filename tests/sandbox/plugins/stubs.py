"""The wheel's gRPC stubs without the SDK around them: half the start-up time of a process.

Importing `pulumi.runtime.proto` runs `pulumi/__init__.py`, which loads the whole SDK. A process
that only speaks the protocol puts empty packages with the right paths in its place.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

_PACKAGES = {"pulumi": "", "pulumi.runtime": "runtime", "pulumi.runtime.proto": "runtime/proto"}


def import_stubs_only() -> None:
    """Make `pulumi.runtime.proto` importable alone; call it before the first import of it."""
    if "pulumi" in sys.modules:
        return
    spec = importlib.util.find_spec("pulumi")
    if spec is None or spec.origin is None:
        raise ImportError("the pulumi package is not installed; install requirements.lock")
    root = Path(spec.origin).parent
    for name, below in _PACKAGES.items():
        package = types.ModuleType(name)
        package.__path__ = [str(root / below)]
        sys.modules[name] = package
