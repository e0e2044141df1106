"""Dynamic providers: install a job on the host, read its status back into the stack."""

from sync.providers.agent_bundle import agent_digest
from sync.providers.resources import (
    AgentBundle,
    FlistsSync,
    HostDirectories,
    HostFiles,
    KernelsSync,
    Preflight,
    StackSecret,
    StackSecrets,
    UsersSync,
)

__all__ = [
    "AgentBundle",
    "FlistsSync",
    "HostDirectories",
    "HostFiles",
    "KernelsSync",
    "Preflight",
    "StackSecret",
    "StackSecrets",
    "UsersSync",
    "agent_digest",
]
