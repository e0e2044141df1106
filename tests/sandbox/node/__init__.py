"""A client that asks as a node does, and is as intolerant: it decides whether a mirror works."""

from tests.sandbox.node.mirror import Mirror
from tests.sandbox.node.network import Names
from tests.sandbox.node.node import RUN_MODES, Node
from tests.sandbox.node.reading import Booted
from tests.sandbox.node.report import Failure, NodeError, Phase, Report

__all__ = [
    "RUN_MODES",
    "Booted",
    "Failure",
    "Mirror",
    "Names",
    "Node",
    "NodeError",
    "Phase",
    "Report",
]
