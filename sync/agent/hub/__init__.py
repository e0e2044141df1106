"""The users job: a hub's repositories, flists, links and tags; never half, never stale."""

from sync.agent.hub.engine import UsersEngine as Engine
from sync.agent.hub.verification import repair, verify

__all__ = ["Engine", "repair", "verify"]
