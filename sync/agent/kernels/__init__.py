"""The kernels job: kernels and net links of a bootstrap server, never half, never stale."""

from sync.agent.kernels.engine import KernelsEngine as Engine
from sync.agent.kernels.verification import repair, verify

__all__ = ["Engine", "repair", "verify"]
