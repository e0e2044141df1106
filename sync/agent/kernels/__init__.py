"""The kernels job: kernels and net links of a bootstrap server, never half, never stale."""

from sync.agent.http import Master
from sync.agent.kernels.engine import KernelsEngine
from sync.agent.kernels.record import opened
from sync.agent.kernels.verifying import repair, verify
from sync.agent.passes import repeat
from sync.agent.reporter import Reporter
from sync.agent.runtime import Control, Directories
from sync.contract.spec import KernelsSpec

__all__ = ["repair", "run", "verify"]


def run(spec: KernelsSpec, directories: Directories, reporter: Reporter, control: Control) -> None:
    """Mirror kernels until stopping. See sync.agent.runtime for what may be raised."""
    master = Master(
        spec.source,
        spec.http,
        control,
        bandwidth_bytes_per_second=spec.bandwidth_bytes_per_second,
        backoff=spec.backoff,
    )
    try:
        with opened(directories.state) as record:
            engine = KernelsEngine(spec, directories, reporter, control, record, master)
            repeat(spec, reporter, control, engine.one_pass)
    finally:
        master.close()
