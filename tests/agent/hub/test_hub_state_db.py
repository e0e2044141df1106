"""The state database of the release before is taken over: nothing is fetched or linked anew."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sync.agent.hub import verify
from sync.agent.hub.listing import Link, Name, TagName
from sync.agent.hub.state_db import DATABASE, HubStateDb, TagRow
from sync.agent.job import VerifyOptions
from tests.agent.hub.small_hub import small_model
from tests.agent.mirrors import model_tree, users_mirror
from tests.sandbox.upstream import Upstream

# As that release wrote them: tags to be read so many times more, answers about their entries, a
# taglink without a target name, and what the listing before had dangling.
BEFORE = """
CREATE TABLE tag_answer(
  repository TEXT, tag TEXT, name TEXT, missing INTEGER NOT NULL,
  PRIMARY KEY(repository, tag, name)) WITHOUT ROWID;
INSERT INTO tag_answer VALUES('tf-zos', '3.1', 'zos.flist', 1);
UPDATE tag SET recheck=2;
INSERT OR REPLACE INTO meta VALUES('dangling', 'tf-zos/a.flist -> tf-zos/b.flist: no such flist');
INSERT OR REPLACE INTO link VALUES('alice', '', 'zos', 'tf-zos', '', '3.1', 1700000000);
"""


def test_database_of_the_release_before_is_taken_over(tmp_path: Path) -> None:
    with Upstream(small_model()) as upstream, users_mirror(tmp_path, upstream) as mirror:
        mirror.one_pass()
        path = mirror.directories.state / DATABASE
        with closing(sqlite3.connect(path)) as database:
            database.executescript(BEFORE)
        with HubStateDb(path) as state_db:
            (tag,) = state_db.tags().values()
            assert (tag.name, tag.due) == (TagName("tf-zos", "3.1"), True)
            taglink = Link(Name("alice", "zos"), TagName("tf-zos", "3.1"), 1_700_000_000)
            assert state_db.links()[taglink.name] == taglink
        record = mirror.one_pass()
        assert record.details["received_bytes"] == 0
        assert record.details["master_requests"] == 2, "the listing, and the tag that was due"
        assert mirror.served() == model_tree(upstream.model)
        assert verify(mirror.spec(), mirror.directories, VerifyOptions()).problems == ()


def test_one_entry_of_a_tag_is_found_without_reading_the_others(tmp_path: Path) -> None:
    """It is asked for each quarantined one: among 100,000 of them that took minutes."""
    tag = TagName("r", "t")
    entries = [Link(Name("r", f"{one}.flist", "t"), Name("x", f"{one}.flist"), 1) for one in "abc"]
    with HubStateDb(tmp_path / DATABASE) as rows:
        rows.put_tag(TagRow(tag, 1, False), entries)
        assert [rows.tag_link(link.name) for link in entries] == entries
        assert rows.tag_link(Name("r", "d.flist", "t")) is None
        assert rows.tag_link(Name("r", "a.flist", "u")) is None
        assert rows.tag_link(Name("r", "a.flist")) is None
