"""The bootstrap stand-in answers as 0-bootstrap did when it was recorded.

GRIDHUB_REAL_BOOTSTRAP names a real one (see servers.py); it is asked what the newest revision was.
What is not asked is in LEFT_OUT, with the reason.
"""

import re
from pathlib import Path
from typing import Final

import pytest

from tests.golden import servers
from tests.golden.replay_http import Json, Recording, replay
from tests.sandbox.services.bootstrap_api import BootstrapOptions

RECORDING: Final = Recording.of("bootstrap")
OLD: Final = "reads: revision of 2023-10 on Flask 1.1.4, Werkzeug 1.0.1"

# Requests that neither this project, nor a node, nor an operator's tool makes.
LEFT_OUT: Final = {
    "scripts for one machine out of upstream's own database": re.compile("GET /provision/x"),
    "the length of this answer is that of upstream's own script": re.compile("HEAD /ipxe/prod"),
}
# It would write on the machine that tests run on, as the real server did.
ABSOLUTE: Final = "/tmp/absolute.efi"
# Groups of the recording: answers compared (all requests, and the tree at the end) and left out.
GROUPS: Final = {"reads": (244, 2), "writes": (55, 1), OLD: (244, 2)}
LEFT_OUT_GROUPS: Final = {
    "built media (as an unprivileged user without capabilities)": (
        "needs iPXE's sources and a compiler; what is refused before is compared in `reads`"
    ),
    "reads: revision of 2023-10": "a revision on a Flask that it can not run on",
    "writes: revision of 2023-10": "a revision on a Flask that it can not run on",
}


def _is_left_out(request: Json) -> bool:
    asked = f"{request['method']} {request['path']}"
    forms = request.get("body", {}).get("form", ())
    if any(part.get("filename") == ABSOLUTE for part in forms):
        return True
    return any(pattern.fullmatch(asked) for pattern in LEFT_OUT.values())


def test_no_group_is_forgotten() -> None:
    names = {group["name"] for group in RECORDING.document["groups"]}
    assert names == {*GROUPS, *LEFT_OUT_GROUPS}


@pytest.mark.parametrize("name", GROUPS)
def test_every_recorded_request_is_answered_as_recorded(name: str, tmp_path: Path) -> None:
    group, folder = RECORDING.group(name), tmp_path / "opt"
    RECORDING.prepare(group, folder)
    kernels = folder / "kernels"
    config = {
        **RECORDING.document["config"],
        "kernel-path": str(kernels),
        "kernel-net-path": str(kernels / "net"),
    }
    options = BootstrapOptions(revision="2023-10" if name == OLD else "newest")
    with servers.bootstrap(config, tmp_path, options) as url:
        result = replay(RECORDING, group, url, folder, _is_left_out)
    assert "\n".join(map(str, result.differences)) == ""
    left_out = sum(_is_left_out(exchange["request"]) for exchange in group["exchanges"])
    assert (result.compared, left_out) == GROUPS[name]
