"""The users job: a hub's repositories, flists, links and tags; never half, never stale."""

from sync.agent.hub.engine import UsersEngine
from sync.agent.hub.verification import repair, verify
from sync.agent.passes import repeat
from sync.agent.status_writer import StatusWriter
from sync.agent.supervisor import Control, Directories
from sync.contract.spec import UsersSpec

__all__ = ["repair", "run", "verify"]


def run(spec: UsersSpec, directories: Directories, status: StatusWriter, control: Control) -> None:
    """Mirror a hub until stopping. See sync.agent.supervisor for what may be raised."""
    with UsersEngine(spec, directories, status, control) as engine:
        repeat(spec, status, control, engine.one_pass)
