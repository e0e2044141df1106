"""The flists job: every chunk of a master namespace, first all, then as they come."""

from sync.agent.flists.engine import run
from sync.agent.flists.verifying import repair, verify

__all__ = ["repair", "run", "verify"]
