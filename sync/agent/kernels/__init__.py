"""The kernels job: kernels and net links of a bootstrap server, never half, never stale."""

from sync.agent.kernels.engine import KernelsEngine
from sync.agent.kernels.folder import master_of
from sync.agent.kernels.state_db import opened
from sync.agent.kernels.verification import repair, verify
from sync.agent.passes import repeat
from sync.agent.status_writer import StatusWriter
from sync.agent.supervisor import Control, Directories
from sync.contract.spec import KernelsSpec

__all__ = ["repair", "run", "verify"]


def run(
    spec: KernelsSpec, directories: Directories, status: StatusWriter, control: Control
) -> None:
    """Mirror kernels until stopping. See sync.agent.supervisor for what may be raised."""
    master = master_of(spec, control, status.sources)
    try:
        with opened(directories.state) as record:
            engine = KernelsEngine(spec, directories, status, control, record, master)
            repeat(spec, status, control, engine.one_pass)
    finally:
        master.close()
