"""The flists job: every chunk of a master namespace, first all, then as they come."""

from sync.agent.flists.engine import run

__all__ = ["run"]
