"""Links at the top of the kernel folder: asked for by name, made as links, never over a kernel."""

import contextlib
import sqlite3
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from sync.agent.job import Directories, JobPaused, PassIncompleteError, VerifyOptions
from sync.agent.kernels import repair, verify
from sync.agent.kernels.state_db import DATABASE, KernelStateDb
from sync.contract.spec import KernelsSpec
from sync.contract.status import StatusRecord
from tests.agent.kernels.kernels_mirror import (
    DAY,
    OLD,
    kernels,
    kernels_model,
    links,
    one_pass,
    served,
    top_links,
)
from tests.agent.mirrors import kernels_spec
from tests.sandbox.services.http import Connection, Request, Response
from tests.sandbox.upstream import Fault, Upstream

LATEST, STABLE = "latest.efi", "stable.efi"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    model = kernels_model()
    model.set_kernel_link(LATEST, "zos-5.efi")
    model.set_kernel_link(STABLE, "zos-3.efi")
    with Upstream(model) as running:
        yield running


def spec(upstream: Upstream, **settings: object) -> KernelsSpec:
    return kernels_spec(upstream, **{"links": [LATEST, STABLE], **settings})


def test_links_that_the_settings_name_are_made_relative_and_no_listing_names_them(
    upstream: Upstream, directories: Directories
) -> None:
    record = one_pass(spec(upstream), directories)
    assert top_links(directories) == {LATEST: "zos-5.efi", STABLE: "zos-3.efi"}
    assert served(directories) == kernels(upstream)
    assert record.broken.count == 0
    assert (record.details["links"], record.details["net_links"]) == (2, 4)
    assert record.total.items == 6, "a link is no kernel"


def test_links_that_nobody_names_are_not_asked_for(
    upstream: Upstream, directories: Directories
) -> None:
    # A request for one would fail the pass.
    upstream.bootstrap_faults.add(Fault("status", r"/kernel/(latest|stable)\.efi"))
    one_pass(spec(upstream, links=[]), directories)
    assert top_links(directories) == {}


def test_a_moved_link_follows_once_its_kernel_is_here(
    upstream: Upstream, directories: Directories
) -> None:
    one_pass(spec(upstream), directories)
    upstream.model.add_kernel("zos-9.efi", b"MZ brand new", OLD + 20 * DAY)
    upstream.model.set_kernel_link(LATEST, "zos-9.efi")
    upstream.bootstrap_faults.add(Fault("status", r"/kernel/zos-9.efi"))
    with pytest.raises(PassIncompleteError):
        one_pass(spec(upstream), directories)
    assert top_links(directories)[LATEST] == "zos-5.efi"
    upstream.bootstrap_faults.clear()
    one_pass(spec(upstream), directories)
    assert top_links(directories)[LATEST] == "zos-9.efi"


def test_a_kernel_that_a_link_names_is_taken_and_never_removed(
    upstream: Upstream, directories: Directories
) -> None:
    few = spec(upstream, run_modes=[], kernels={"exclude": ["*"]})
    one_pass(few, directories)
    assert served(directories).keys() == {"zos-3.efi", "zos-5.efi"}
    upstream.model.delete_kernel("zos-3.efi")
    record = one_pass(few, directories)
    assert top_links(directories) == {LATEST: "zos-5.efi"}, "the master's dangles: 404"
    assert record.broken.names == ["link stable.efi: the master has none"]


def test_kernels_alike_in_size_and_date_are_told_apart_by_content(
    upstream: Upstream, directories: Directories
) -> None:
    for letter in (b"a", b"b"):
        upstream.model.add_kernel(
            f"twin-{letter.decode()}.efi", b"MZ" + letter * 5000, OLD + 30 * DAY
        )
    upstream.model.set_kernel_link(LATEST, "twin-b.efi")
    one_pass(spec(upstream), directories)
    assert top_links(directories)[LATEST] == "twin-b.efi"


@pytest.mark.parametrize("how", ["unset", "404", "of a mode's name"])
def test_a_link_goes_when_it_is_unset_or_gone_from_the_master(
    how: str, upstream: Upstream, directories: Directories
) -> None:
    upstream.model.set_kernel_link("prod", "zos-4.efi")
    one_pass(spec(upstream, links=[LATEST, "prod"]), directories)
    assert top_links(directories) == {LATEST: "zos-5.efi", "prod": "zos-4.efi"}
    if how == "404":
        del upstream.model.kernel_links[LATEST]
    left = ["prod", LATEST] if how == "404" else ["prod"] if how == "unset" else [LATEST]
    for _ in range(2):
        record = one_pass(spec(upstream, links=left), directories)
    gone = "prod" if how == "of a mode's name" else LATEST
    assert top_links(directories).keys() == {LATEST, "prod"} - {gone}
    assert links(directories)["prod"] == "../zos-1.efi"
    assert record.broken.names == (["link latest.efi: the master has none"] if how == "404" else [])


def test_a_link_that_is_missing_only_once_stays(
    upstream: Upstream, directories: Directories
) -> None:
    one_pass(spec(upstream), directories)
    upstream.bootstrap_faults.add(Fault("html", r"/kernel/latest\.efi", status=404, times=1))
    record = one_pass(spec(upstream), directories)
    assert top_links(directories) == {LATEST: "zos-5.efi", STABLE: "zos-3.efi"}
    assert "latest.efi: not listed any more, but still served by the master" in record.broken.names


def test_a_link_that_moved_for_one_answer_only_stays_where_it_was(
    upstream: Upstream, directories: Directories
) -> None:
    one_pass(spec(upstream), directories)
    deliver = upstream.bootstrap.deliver

    def moved_once(connection: Connection, request: Request, response: Response) -> bool:
        if request.path == f"/kernel/{LATEST}":
            upstream.model.set_kernel_link(LATEST, "zos-5.efi")
            upstream.bootstrap.deliver = deliver
        return bool(deliver(connection, request, response))

    upstream.model.set_kernel_link(LATEST, "zos-2.efi")
    upstream.bootstrap.deliver = moved_once
    with pytest.raises(PassIncompleteError, match="two answers of the master differ"):
        one_pass(spec(upstream), directories)
    assert top_links(directories)[LATEST] == "zos-5.efi"
    one_pass(spec(upstream), directories)
    assert top_links(directories)[LATEST] == "zos-5.efi"


# As the release before kept its net links, which were the only ones that it had.
ROWS_BEFORE = """
CREATE TABLE net(
  mode TEXT PRIMARY KEY, size_bytes INTEGER, modified_seconds REAL, target TEXT, md5 TEXT
) WITHOUT ROWID;
INSERT INTO net
  SELECT substr(path, 5, length(path) - 8), size_bytes, modified_seconds, target, md5 FROM link;
DROP TABLE link;
"""


def test_a_net_link_of_the_release_before_is_known_and_goes_with_its_run_mode(
    upstream: Upstream, directories: Directories
) -> None:
    one_pass(spec(upstream, links=[]), directories)
    path = directories.state / DATABASE
    with KernelStateDb(directories.state) as db:
        before = db.links()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(ROWS_BEFORE)
    for _ in range(2):
        with KernelStateDb(directories.state) as db:
            assert db.links() == before, "carried over once, with all that was known"
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert not database.execute("SELECT 1 FROM sqlite_master WHERE name='net'").fetchone()
    one_pass(spec(upstream, links=[], run_modes=["prod", "dev"]), directories)
    assert links(directories).keys() == {"prod", "dev"}


def test_too_many_links_gone_at_once_pause_before_anything_is_removed(
    upstream: Upstream, directories: Directories
) -> None:
    one_pass(spec(upstream), directories)
    upstream.model.kernel_links.clear()
    with pytest.raises(JobPaused, match="2 of 8 names"):
        one_pass(spec(upstream, removal_floor_items=1), directories)
    assert top_links(directories) == {LATEST: "zos-5.efi", STABLE: "zos-3.efi"}
    one_pass(spec(upstream, removal_floor_items=1, removal_confirmation=1), directories)
    assert top_links(directories) == {}


def test_a_link_that_can_not_be_asked_for_blocks_nothing_and_stays(
    upstream: Upstream, directories: Directories
) -> None:
    one_pass(spec(upstream), directories)
    upstream.bootstrap_faults.add(Fault("status", r"/kernel/latest\.efi"))
    with pytest.raises(PassIncompleteError, match=r"link latest\.efi"):
        one_pass(spec(upstream, kernels={"exclude": ["*"]}), directories)
    assert top_links(directories) == {LATEST: "zos-5.efi", STABLE: "zos-3.efi"}
    assert "zos-5.efi" in served(directories)


def test_a_kernel_of_the_same_name_wins(upstream: Upstream, directories: Directories) -> None:
    wanted = spec(upstream, links=[LATEST, STABLE, "zos-0.efi"])
    record = one_pass(wanted, directories)
    refused = "link zos-0.efi: the master has a kernel of that name, which wins"
    assert record.broken.names == [refused]
    assert served(directories) == kernels(upstream)


def test_a_link_that_became_a_kernel_is_served_until_the_kernel_is_here(
    upstream: Upstream, directories: Directories
) -> None:
    one_pass(spec(upstream), directories)
    upstream.model.add_kernel(LATEST, b"MZ a kernel by now", OLD + 40 * DAY)
    upstream.bootstrap_faults.add(Fault("status", r"/kernel/latest\.efi"))
    with pytest.raises(PassIncompleteError):
        one_pass(spec(upstream), directories)
    assert top_links(directories)[LATEST] == "zos-5.efi"
    upstream.bootstrap_faults.clear()
    one_pass(spec(upstream), directories)
    assert served(directories) == kernels(upstream)
    assert top_links(directories) == {STABLE: "zos-3.efi"}
    one_pass(spec(upstream), directories)
    assert served(directories)[LATEST] == b"MZ a kernel by now"


def test_a_link_that_became_a_kernel_nobody_selects_goes(
    upstream: Upstream, directories: Directories
) -> None:
    chosen = spec(upstream, kernels={"include": ["zos-*"]})
    one_pass(chosen, directories)
    upstream.model.add_kernel(LATEST, b"MZ a kernel by now", OLD + 40 * DAY)
    one_pass(chosen, directories)
    assert top_links(directories) == {STABLE: "zos-3.efi"}
    assert LATEST not in served(directories)


@pytest.mark.parametrize("retention_days", [0, 7])
def test_a_kernel_that_became_a_link_gives_way_to_it(
    retention_days: int, upstream: Upstream, directories: Directories
) -> None:
    wanted = spec(upstream, links=[LATEST, "zos-0.efi"], retention_days=retention_days)
    one_pass(wanted, directories)
    upstream.model.set_kernel_link("zos-0.efi", "zos-4.efi")
    record = one_pass(wanted, directories)
    assert top_links(directories) == {LATEST: "zos-5.efi", "zos-0.efi": "zos-4.efi"}
    assert served(directories) == kernels(upstream)
    assert record.broken.count == 0
    assert verify(wanted, directories, VerifyOptions()).problems == ()


def test_many_kernels_that_became_links_at_once_pause_the_job(
    upstream: Upstream, directories: Directories
) -> None:
    names = ["zos-0.efi", "zos-2.efi", "zos-3.efi"]
    wanted = spec(upstream, links=[LATEST, *names], removal_floor_items=1, run_modes=[])
    one_pass(wanted, directories)
    for name in names:
        upstream.model.set_kernel_link(name, "zos-4.efi")
    with pytest.raises(JobPaused):
        one_pass(wanted, directories)
    assert top_links(directories) == {LATEST: "zos-5.efi"}


def test_a_kernel_that_another_link_needs_keeps_its_name(
    upstream: Upstream, directories: Directories
) -> None:
    wanted = spec(upstream, links=[LATEST, "zos-1.efi"], net_links={"prod": "zos-1.efi"})
    one_pass(wanted, directories)
    upstream.model.set_kernel_link("zos-1.efi", "zos-4.efi")
    record = one_pass(wanted, directories)
    assert not (directories.kernels / "zos-1.efi").is_symlink()
    assert record.broken.names == [
        "link zos-1.efi: the kernel of that name is still needed here",
    ]


def test_a_link_to_what_is_no_listed_kernel_is_named_and_fetched_once(
    upstream: Upstream, directories: Directories
) -> None:
    one_pass(spec(upstream), directories)
    upstream.model.add_kernel(".hidden", bytes(5000), OLD)
    upstream.model.set_kernel_link(LATEST, ".hidden")
    told = "link latest.efi: leads to no kernel that the master lists"

    def passed() -> StatusRecord:
        record = one_pass(spec(upstream), directories)
        assert told in record.broken.names
        return record

    passed()
    again = passed()
    assert int(again.details["received_bytes"]) < 5000, "known by its size and date"
    assert top_links(directories)[LATEST] == "zos-5.efi", "the mirror keeps its own"
    assert verify(spec(upstream), directories, VerifyOptions(offline=True)).problems == ()


@pytest.mark.parametrize("name", ["../up.efi", ".hidden", "a/b"])
def test_a_name_that_is_no_plain_one_is_refused_with_the_spec(name: str) -> None:
    with pytest.raises(ValidationError, match=r"links\.0\n.*is not a plain name"):
        KernelsSpec(stack="t", sources=["http://master.example"], links=[name])


def test_the_net_folders_name_is_refused(upstream: Upstream, directories: Directories) -> None:
    record = one_pass(spec(upstream, links=["net", LATEST]), directories)
    assert record.broken.count == 1
    assert top_links(directories) == {LATEST: "zos-5.efi"}


def test_verify_finds_a_link_that_leads_elsewhere_and_repair_mends_it(
    upstream: Upstream, directories: Directories
) -> None:
    one_pass(spec(upstream), directories)
    for name in (LATEST, STABLE):
        (directories.kernels / name).unlink()
    (directories.kernels / LATEST).symlink_to("zos-0.efi")
    report = repair(spec(upstream), directories, VerifyOptions())
    assert {problem.name for problem in report.problems} == {LATEST, STABLE}
    assert report.repaired == 2
    assert top_links(directories) == {LATEST: "zos-5.efi", STABLE: "zos-3.efi"}


def test_a_mirror_of_the_mirror_finds_the_same_links(
    upstream: Upstream, directories: Directories
) -> None:
    """What is here has the master's size and date, also behind a link."""
    one_pass(spec(upstream), directories)
    for name, target in top_links(directories).items():
        own, led = (directories.kernels / name).stat(), upstream.model.kernels[target]
        assert (own.st_size, own.st_mtime) == (len(led.data), led.modified)
