"""What `preview --diff` prints of our own resources: what changed, not what merely moved."""

import re
from typing import Any, Final

import pytest

from tests.e2e.stack import MirrorStack
from tests.e2e.test_previews import merged
from tests.sandbox.host.processes import wait_until
from tests.sandbox.upstream import Upstream

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

_HEADER: Final = re.compile(r"^\s*(?P<op>[-+~]*)\s*(?P<type>[\w-]+(?::[\w/-]+)+): \(\w+\)$")
_NAME: Final = re.compile(r"^\s*\[urn=.*::(?P<name>[\w.-]+)\]$")
_CHANGED: Final = re.compile(r"^\s*(?P<line>[-+~] .*)$")
_OURS: Final = ("pulumi-python:dynamic/gridhub:", "pulumi:pulumi:Stack")


def changed_lines(printed: str) -> dict[str, list[str]]:
    """Return the lines with a sign of change below each of our resources and the stack, by name."""
    found: dict[str, list[str]] = {}
    ours, name = False, ""
    for line in printed.splitlines():
        if header := _HEADER.match(line):
            ours = header["type"].startswith(_OURS)
        elif urn := _NAME.match(line):
            name = urn["name"]
        elif ours and (changed := _CHANGED.match(line)):
            # Pulumi aligns the colons.
            found.setdefault(name, []).append(
                re.sub(r" +:", ":", re.sub(r" +", " ", changed["line"]))
            )
        elif line.startswith("Resources:"):
            return found
    raise AssertionError(f"no summary was printed:\n{printed}")


def test_an_unchanged_stack_shows_no_line(running: tuple[MirrorStack, Upstream]) -> None:
    stack, _ = running
    stack.refresh()
    told = stack.outputs()["mirror"]["users"]
    assert told["done"] == told["total"] != {}
    before = stack.recorded("users")["__record"]["updatedAt"]
    assert changed_lines(stack.pulumi("preview", "--refresh", "--diff")) == {}
    stack.refresh()
    assert stack.recorded("users")["__record"]["updatedAt"] > before


def test_a_mirror_that_advanced_shows_in_one_line(running: tuple[MirrorStack, Upstream]) -> None:
    stack, upstream = running
    stack.refresh()
    count = stack.record("kernels").done.items
    assert count is not None
    upstream.model.add_kernel("zos-new.efi", b"MZ kernel" * 1000)
    wait_until(lambda: stack.record("kernels").done.items == count + 1, "the new kernel", 60)
    stack.wait_for("kernels", "the new kernel")
    lines = changed_lines(stack.pulumi("preview", "--refresh", "--diff"))
    assert list(lines) == ["sync-kernels-sync"], lines
    (line,) = lines["sync-kernels-sync"]
    assert line.startswith(f'~ summary: "idle, {count} of {count} kernels, ')
    assert f'=> "idle, {count + 1} of {count + 1} kernels, ' in line


# Each shows below a resource of its own.
EDITS: Final[tuple[tuple[dict[str, Any], str, list[str]], ...]] = (
    ({"kernels": {"newest": 5}}, "sync-kernels-sync", ["~ spec: {", "+ newest: 5"]),
    (
        {"users": {"schedule": {"intervalSeconds": 2.0}}},
        "sync-users-sync",
        ["~ spec: {", "~ schedule: {", "~ interval_seconds: 1 => 2"],
    ),
    (
        {"preflight": {"memoryMb": 600}},
        "preflight",
        ["~ limits: {", "~ memoryBytes: 536870912 => 629145600"],
    ),
    ({"rotation": {"guestToken": 1}}, "secrets-guestToken", ["~ rotation: 0 => 1"]),
)


def test_each_changed_setting_shows_as_its_own_field(
    running: tuple[MirrorStack, Upstream],
) -> None:
    stack, _ = running
    settings = stack.config
    try:
        for edit, _, _ in EDITS:
            stack.config = merged(stack.config, edit)
        shown = changed_lines(stack.pulumi("preview", "--diff"))
    finally:
        stack.config = settings
    assert shown == {resource: lines for _, resource, lines in EDITS}


def test_what_needs_a_repair_shows_as_the_reason(running: tuple[MirrorStack, Upstream]) -> None:
    """The job's spec is not printed: `repair` is the one field that differs."""
    stack, _ = running
    stack.refresh()
    spec = stack.root / "sync/flists/spec/spec.json"
    spec.write_text(spec.read_text().replace('"poll_seconds":5', '"poll_seconds":7'))
    said = stack.pulumi("preview", "--refresh", "--diff")
    words = "the spec on the host was changed; pulumi up writes it anew"
    seen, planned = said.split("FlistsSync: (update)")
    assert f'"{words}"' in seen
    assert set(changed_lines(said)) == {"sync-flists-sync"}, said
    assert [line.strip() for line in planned.splitlines() if re.match(r"\s*[-+~] ", line)] == [
        "- repair: [",
        f'-     [0]: "{words}"',
        "~ 1 to update",
    ]
    # As it was refreshed, so it is repaired: also when the refresh was another command.
    stack.refresh()
    assert changed_lines(stack.pulumi("preview", "--diff")) == {
        "sync-flists-sync": ["- repair: [", f'- [0]: "{words}"']
    }
    stack.up()
    # A job that was given its spec anew may look once at the master before it follows again.
    stack.wait_for("flists", "follows by the spec written anew")
    stack.refresh()
    assert changed_lines(stack.pulumi("preview", "--refresh", "--diff")) == {}
