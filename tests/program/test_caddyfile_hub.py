"""What the edge keeps from the hub: paths that climb, and in a mirror what opens flists."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.caddyfile import caddyfile
from components.settings.model import HubSettings, Mode
from tests.program.test_caddyfile import SANDBOX, changed, site


def edge_of(mode: Mode = "mirror", *, inspection: bool = False) -> str:
    return caddyfile(changed(SANDBOX, mode=mode, hub=HubSettings(inspection=inspection)))


EDGE = edge_of()
SITES = ("https://hub.gridhub.test", "http://hub.gridhub.test")


def opens(path: str, text: str = EDGE) -> bool:
    """Whether the edge takes a path for one that opens a flist (Go's RE2 reads these alike)."""
    block = site(text, "(hub)")
    found = re.search(r"^\t\tpath_regexp (\S+)$", block, re.MULTILINE)
    but = re.search(r"^\t\tnot path_regexp (\S+)$", block, re.MULTILINE)
    if not found or not but:
        return False
    ours = r"\A" + found[1].removeprefix("^").removesuffix("$") + r"\Z"
    return bool(re.search(ours, path)) and not re.search(but[1], path)


def climbs(path: str) -> bool:
    found = re.search(r"@climbs vars_regexp \{http.request.orig_uri.path\} (\S+)", EDGE)
    assert found
    return bool(re.search(found[1], path))


@pytest.mark.parametrize(
    "path",
    [
        "/api/flist/tf-zos/zos.flist",
        "/api/flist/tf-zos/zos",
        "/api/flist/tf-zos/zos.flist/",
        "/api/flist/tf-zos/a\nb",
        "/api/flist/tf-zos/tags",
        "/api/flist/tf-zos/zos.flist/metadata",
        "/api/flist/tf-zos/zos.flist/metadata/",
        "/tf-zos/zos.flist.md",
        "/tf-zos/zos.md",
        "/tf-zos/zos.txt",
        "/search",
        "/search/",
        "/listen",
        "/listen/0c1d",
    ],
)
def test_a_mirror_opens_no_flist_for_anybody(path: str) -> None:
    assert opens(path)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/flist",
        "/api/fileslist",
        "/api/repositories",
        "/api/flist/tf-zos",
        "/api/flist/tf-zos/tags/3.12.7",
        "/api/flist/tf-zos/tags/metadata",
        "/api/flist/tf-zos/zos.flist/light",
        "/api/flist/tf-zos/production/taglink",
        "/tf-zos/zos.flist",
        "/tf-zos/zos.flist.md5",
        "/tf-zos/zos.txt.flist",
        "/tf-zos/tags/3.12.7/zos.flist",
        "/tf-zos/tags/3.12.7",
        "/somebody/image.fl",
        "/tf-zos",
    ],
)
def test_what_nodes_slaves_and_lists_ask_is_answered(path: str) -> None:
    assert not opens(path)
    assert not climbs(path)


NAMES = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1)


@given(NAMES, NAMES, NAMES)
def test_no_name_opens_a_flist_and_none_hides_a_tag(repository: str, flist: str, tag: str) -> None:
    assert opens(f"/api/flist/{repository}/{flist}")
    assert opens(f"/api/flist/{repository}/{flist}/metadata") or flist == "tags"
    assert not opens(f"/api/flist/{repository}/tags/{tag}")
    assert not opens(f"/api/flist/{repository}/{flist}/light")
    assert not opens(f"/{repository}/{flist}.flist")


@given(st.lists(st.sampled_from(["", ".", "..", "a", "...", "..a", "a..", ".flist"])))
def test_a_path_that_climbs_never_reaches_the_hub(parts: list[str]) -> None:
    assert climbs("/" + "/".join(parts)) == bool({".", ".."} & set(parts))


@given(NAMES)
def test_a_path_that_werkzeug_reads_to_its_line_feed_only_never_reaches_the_hub(name: str) -> None:
    for path in (f"/api/flist/tf-zos/{name}/metadata\n", f"/tf-zos/{name}.md\n", "/search\n"):
        assert climbs(path)
    assert climbs(f"/{name}") == (
        name in {".", ".."} or re.search(r"[\x00-\x1f\x7f]", name) is not None
    )


def test_a_method_in_lower_case_is_none() -> None:
    """Werkzeug takes `get` for GET, which `@inspects` does not."""
    found = re.search(r"@unknown not method (.+)\n\thandle @unknown {\n\t\trespond 501", EDGE)
    assert found
    assert {"GET", "HEAD", "POST", "DELETE", "INFO"} <= set(found[1].split())
    assert found[1].isupper()


@pytest.mark.parametrize("head", SITES)
def test_both_are_refused_under_each_name_before_anything_is_passed_on(head: str) -> None:
    block = site(EDGE, head)
    assert block.index("import hub") < block.index("reverse_proxy")
    assert site(EDGE, "(hub)").startswith("\timport misread\n")
    assert re.search(r"handle @climbs \{\s*respond \"[^\"]+\" 400", EDGE)
    assert re.search(r"handle @inspects \{\s*respond \"[^\"]+\" 403", EDGE)
    assert "handle {\n\t\treverse_proxy hub:5555" in block or "redir" in block


def test_only_what_reads_is_kept_back() -> None:
    """A write is the hub's to refuse; INFO is 0-hub's other name for /light."""
    assert "@inspects {\n\t\tmethod GET HEAD\n" in EDGE


def test_a_setting_and_the_writable_modes_open_flists() -> None:
    opening = [edge_of(inspection=True), edge_of("detached"), edge_of("standalone")]
    for text in opening:
        assert not opens("/api/flist/tf-zos/zos.flist", text)
        assert "@inspects" not in text
        assert "handle @climbs" in text


def test_lists_of_all_there_is_are_asked_of_the_gate() -> None:
    for head, path in (
        ("https://hub.gridhub.test", "/api/fileslist"),
        ("https://hub.gridhub.test", "/api/flist"),
        ("http://hub.gridhub.test", "/api/flist"),
    ):
        found = re.search(
            rf"@(\w+) {{\s*method GET HEAD\s*path [^\n]*{path}[ \n]", site(EDGE, head)
        )
        assert found
        assert f"handle @{found[1]} {{\n\t\treverse_proxy gate:8091\n" in site(EDGE, head)
