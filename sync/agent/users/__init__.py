"""The users job: a hub's repositories, flists, links and tags; never half, never stale."""

from sync.agent.passes import repeat
from sync.agent.reporter import Reporter
from sync.agent.runtime import Control, Directories
from sync.agent.users.engine import UsersEngine
from sync.agent.users.verifying import repair, verify
from sync.contract.spec import UsersSpec

__all__ = ["repair", "run", "verify"]


def run(spec: UsersSpec, directories: Directories, reporter: Reporter, control: Control) -> None:
    """Mirror a hub until stopping. See sync.agent.runtime for what may be raised."""
    with UsersEngine(spec, directories, reporter, control) as engine:
        repeat(spec, reporter, control, engine.one_pass)
