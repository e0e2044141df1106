"""A stand-in for the master: one model in memory, served as hub, bootstrap server and 0-db.

Tests edit the model directly (`upstream.model.add_flist(…)`) and damage what travels
(`upstream.hub_faults.add(…)`); `python -m tests.sandbox.upstream` does the same for a person.
"""

from tests.sandbox.upstream.faults import Fault, FaultKind, Faults
from tests.sandbox.upstream.model import UpstreamModel
from tests.sandbox.upstream.servers import Upstream
from tests.sandbox.upstream.world import standard_world

__all__ = ["Fault", "FaultKind", "Faults", "Upstream", "UpstreamModel", "standard_world"]
