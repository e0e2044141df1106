"""The flists job: every chunk of a master namespace, first all, then as they come."""

from sync.agent.chunks.engine import ChunksEngine as Engine
from sync.agent.chunks.reconcile.verification import repair, verify

__all__ = ["Engine", "repair", "verify"]
