"""A master larger than the mirror's 0-db may become is refused before anything is there."""

import os
from pathlib import Path

import pytest

from sync.contract.zdb_memory import LEAST_MIB, MIB, keys_within
from tests.e2e.stack import Ground, mirror_stack
from tests.sandbox.pulumi.workspace import PulumiError
from tests.sandbox.upstream import Upstream

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


def test_a_master_larger_than_0_dbs_memory_is_refused_before_the_copy(
    place: Ground, master: Upstream, tmp_path: Path
) -> None:
    keys = keys_within(LEAST_MIB * MIB) + 1
    master.model.add_chunks({os.urandom(16): b"x" for _ in range(keys)})
    limits = {"zdb": {"memoryMb": LEAST_MIB}}
    with mirror_stack(place, master, tmp_path, limits=limits, ready="started") as stack:
        with pytest.raises(PulumiError) as refused:
            stack.up()
        assert "error: zdb-memory: the master's 0-db holds" in refused.value.output
        assert stack.containers() == {}
        assert not stack.root.exists()
        stack.config["limits"] = {"zdb": {"memoryMb": 256}}
        stack.up()
        assert "zdb" in stack.containers()
