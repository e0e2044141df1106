"""200 hostile names and links: nothing outside, all listed, the rest synced."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from sync.agent.hub.listing import Link, Name, TagName
from sync.agent.hub.tree import link_text, read_link_text
from sync.contract.names import RefusedNameError
from tests.agent.hub.flists_of import small
from tests.agent.mirrors import UsersMirror, model_tree, users_mirror
from tests.agent.scripted import Answer, Asked, ScriptedServer
from tests.sandbox.services.http import Request
from tests.sandbox.upstream import Upstream, UpstreamModel

OLD = 1_700_000_000
_BAD_PARTS = (
    *("..", ".", "", "../x", "../../etc/cron.d/x", "/etc/passwd", "//etc", "a/b", "a/", "a\0b"),
    *(
        ".hidden",
        ".tag-x",
        ".. ",
        "...",
        "..%2f",
        ".\u00e9",
        "a\nb",
        "\r\n",
        "\t",
        "\x7f",
        "\x1b[2J",
    ),
    *("a\x80", "\x9b2J", "a\x85b", "\ud800", "a\udc80b", "\udfff\ud800", "x" * 256, "x" * 5000),
    *("\u00e9" * 128, "\U0001f600" * 64, "a\0/../b", "\\\n", "a\v", "a\f", "\x1f", "\a", "\b", "/"),
    *("a//b", "/.", "a/../b", "\0"),
)
# Safe file names, however odd: what a shell, a URL, a terminal or a person may take for another.
ODD_PARTS = (
    *(
        "-rf",
        " lead",
        "trail ",
        "a b (1)",
        "~root",
        "%2e%2e",
        "%2e%2e%2fetc",
        "%00",
        "a\\b",
        "café",
    ),
    *(
        "\u202egpj",
        "z\u043es",
        "\uff0e\uff0e",
        "\u2024\u2024",
        "a\u2215b",
        "e\u0301",
        "\u00e9",
        "$HOME",
    ),
    *(
        "a;b",
        "a|b",
        "`id`",
        "a*",
        "a?",
        "[a]",
        "<a>",
        '"a"',
        "'a'",
        "a#b",
        "a&b",
        "a%b",
        "(a)",
        "+",
    ),
    *("\U0001f600", "a\u2028b", "\u200b", "tags", "api", "light", "md5", "a.flist.md5", "x" * 244),
)
_LINK_TARGETS = (
    *("/etc/passwd", "../../../etc/passwd", "etc/passwd", "good/../../x.flist", "", "..", "."),
    *("a/b/c.flist", "good/tags/x/y.flist", "good/f.flist/", "/good/f.flist", "good//f.flist"),
    *(
        "./f.flist",
        "good/.hidden.flist",
        "f",
        "good/f",
        "..\0/f.flist",
        "f.flist\0",
        "a\nb.flist",
    ),
)
_TAGLINK_TARGETS = (
    *("good/tags/../../x", "good/tags/", "tags/x", "/good/tags/x", "good/tag/x", "good/x"),
    *("good/tags/x/y", "../good/tags/x", "good/tags/.x", "", "good", "goo\0d/tags/x"),
)


def regular(name: object) -> dict[str, object]:
    return {"name": name, "size": "1.00 KB", "updated": OLD, "type": "regular"}


def symlink(name: object, target: object, kind: str = "symlink") -> dict[str, object]:
    times = {"updated": OLD, "linktime": OLD}
    return {"name": name, "size": "1.00 KB", "type": kind, "target": target, **times}


def hostile_entries() -> list[object]:
    """Entries of a repository that must all be refused, one by one."""
    entries: list[object] = []
    for part in _BAD_PARTS:
        entries.append(regular(part + ".flist"))
        entries.append({"name": part, "size": "0 KB", "updated": OLD, "type": "tag"})
        entries.append(symlink(part, "good/tags/t", "taglink"))
    entries += [symlink(f"l{n}.flist", target) for n, target in enumerate(_LINK_TARGETS)]
    entries += [symlink(f"t{n}", target, "taglink") for n, target in enumerate(_TAGLINK_TARGETS)]
    entries += [symlink("self.flist", "self.flist"), symlink("tag.flist", "good/tags/t", "taglink")]
    entries += [None, 7, "text", [], {}, {"name": 7}, {"name": "x"}, regular(None), regular(["x"])]
    entries += [{**regular("kind.flist"), "type": kind} for kind in (None, "device", "x" * 999, 5)]
    entries += [
        {**regular("time.flist"), "updated": time} for time in (-(1 << 40), "1", 1e300, None, True)
    ]
    entries += [{**regular("size.flist"), "size": size} for size in (None, 5, [1])]
    return entries


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    model = UpstreamModel()
    model.now = lambda: float(OLD)
    model.add_flist("good", "f.flist", small(1))
    model.add_flist("good", "g.flist", small(2))
    model.set_link("good", "h.flist", "f.flist")
    model.set_tag("good", "t", {"f.flist": "good/f.flist"})
    model.set_taglink("good", "latest", "good", "t")
    with Upstream(model) as running:
        yield running


class HostileHub:
    """Stands before a good hub and puts hostile entries into what it lists."""

    def __init__(self, upstream: Upstream) -> None:
        self._model = upstream.model
        self._api = upstream.hub_api
        self.entries = hostile_entries()

    def __call__(self, asked: Asked) -> Answer | None:
        response = self._api(Request(asked.method, asked.path, asked.headers))
        body = b"".join(response.content.blocks(response.start, response.length))
        if asked.path == "/api/fileslist":
            listing = json.loads(body)
            listing["good"] = [*self.entries, *listing["good"]]
            random.Random(1).shuffle(listing["good"])
            for name in _BAD_PARTS:
                listing[name] = [regular("inside.flist")]
            body = json.dumps(listing).encode()
        if asked.path == "/api/flist/good/tags/t":
            inside = [symlink("x.flist", target) for target in ("f.flist", *_LINK_TARGETS)]
            body = json.dumps([*inside, regular("r.flist"), *json.loads(body)]).encode()
        return Answer(body, response.status, mtime=OLD)


def outside_of(mirror: UsersMirror, root: Path) -> set[str]:
    public = mirror.directories.public
    return {str(path) for path in root.rglob("*") if public not in path.parents}


def test_200_hostile_names_and_links_are_refused_and_listed_and_the_rest_synced(
    upstream: Upstream, tmp_path: Path
) -> None:
    hub = HostileHub(upstream)
    with ScriptedServer(hub) as server, users_mirror(tmp_path, upstream) as mirror:
        mirror.settings["sources"] = [server.url]
        before = outside_of(mirror, tmp_path)
        record = mirror.one_pass()
        after = outside_of(mirror, tmp_path)
        shown = model_tree(upstream.model)
        # Of its tag the half is refused, so it is not shown.
        del shown["good/.tag-t/f.flist"], shown["good/latest"]
        assert mirror.served() == shown
        repositories = len(_BAD_PARTS)
        inside_tag = len(_LINK_TARGETS) + 2
        assert len(hub.entries) + repositories + inside_tag >= 200
        assert record.refused.count == len(hub.entries) + repositories + inside_tag
        state = str(mirror.directories.state)
        assert {path for path in after - before if not path.startswith(state)} == set()
        paths = [asked.path for asked in server.asked]
        assert all(path.isascii() and ".." not in path for path in paths)
        assert record.broken.count == 2
        assert all(len(line) < 1000 and line.isprintable() for line in record.broken.names)
        again = mirror.one_pass()
        assert again.refused.count == record.refused.count, "tags are not read, yet still listed"


def test_loops_and_chains_of_links_end(upstream: Upstream, tmp_path: Path) -> None:
    model = upstream.model
    model.set_link("good", "a.flist", "b.flist")
    model.set_link("good", "b.flist", "c.flist")
    model.set_link("good", "c.flist", "a.flist")
    model.set_link("good", "chain-0.flist", "f.flist")
    for number in range(1, 40):
        model.set_link("good", f"chain-{number}.flist", f"chain-{number - 1}.flist")
    with users_mirror(tmp_path, upstream) as mirror:
        record = mirror.one_pass()
        served = mirror.served()
    assert "good/chain-10.flist" in served
    assert not {"good/a.flist", "good/b.flist", "good/c.flist", "good/chain-39.flist"} & set(served)
    assert sum("a loop of links" in name for name in record.broken.names) >= 4
    users = mirror.directories.public / "users"
    assert all((users / name).exists() for name in served), "no link dangles"


@pytest.mark.parametrize(
    ("name", "target", "text"),
    [
        (Name("r", "g.flist"), Name("r", "f.flist"), "f.flist"),
        (Name("r", "g.flist"), Name("q", "f.flist"), "../q/f.flist"),
        (Name("r", "n.flist", "t"), Name("q", "f.flist"), "../../q/f.flist"),
        (Name("r", "latest"), TagName("q", "t"), "../q/.tag-t"),
    ],
)
def test_links_have_the_four_shapes_of_a_hub(name: Name, target: Name, text: str) -> None:
    assert link_text(Link(name, target, OLD)) == text
    assert read_link_text(name, text) == target


@pytest.mark.parametrize(
    "text",
    [
        *("/etc/passwd", "../../etc/passwd", "../q/../f.flist", "..", "", "../../../q/f.flist"),
        *("../q/f", "q/f.flist", "./f.flist", "../q/.tag-", "../q/.tag-../x", "f"),
    ],
)
def test_no_other_shape_on_disk_is_taken_for_a_link(text: str) -> None:
    with pytest.raises(RefusedNameError):
        read_link_text(Name("r", "g.flist"), text)
