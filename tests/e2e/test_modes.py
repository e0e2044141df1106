"""The three modes: a mirror that is detached accepts uploads, and does not go back unasked."""

import base64
import shutil
import socket
import time
from pathlib import Path

import pytest

from sync.providers.token import mint
from tests.e2e.nodes import live, node_of, upload
from tests.e2e.stack import Ground, MirrorStack, mirror_stack, steps_of
from tests.sandbox.host.pulumi import PulumiError
from tests.sandbox.upstream import Upstream

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]
_LIBRARY = Path(socket.__file__).parent
_SYNC = ("users", "kernels", "flists")


def archive_of(directory: Path, target: Path) -> Path:
    return Path(shutil.make_archive(str(target), "gztar", directory))


def token(stack: MirrorStack, user: str) -> str:
    seed = stack.pulumi("stack", "output", "hubSeed", "--show-secrets").strip()
    return mint(base64.b64decode(seed), user, int(time.time()))


def upload_is_served(stack: MirrorStack, tmp_path: Path, name: str) -> None:
    plain = tmp_path / name
    shutil.copytree(_LIBRARY / "logging", plain, ignore=shutil.ignore_patterns("__pycache__"))
    archive = archive_of(plain, tmp_path / name)
    status, _ = upload(stack, archive, None)
    assert status in (401, 403), "an upload without a token"
    status, answer = upload(stack, archive, token(stack, "alice"))
    assert status == 200, answer
    with node_of(stack, "127.0.0.1") as node:
        node.boot(f"alice/{name}.flist", plain)


def test_a_detached_mirror_keeps_its_data_accepts_uploads_and_does_not_go_back_unasked(
    place: Ground, master: Upstream, tmp_path: Path
) -> None:
    with mirror_stack(place, master, tmp_path) as stack:
        stack.up()
        sources = master.model.boot_sources()
        status, answer = upload(stack, archive_of(_LIBRARY / "json", tmp_path / "early"), "x")
        assert (status, "readonly" in str(answer)) == (400, True), "a mirror is read-only"

        stack.config |= {"mode": "detached", "ready": "started"}
        planned = steps_of(stack)
        assert {name for name, op in planned.items() if op == "delete" and "sync" in name}
        assert "zdb-container" not in {n for n, op in planned.items() if op == "delete"}
        stack.up()
        assert steps_of(stack) == {}
        assert not set(stack.containers()) & set(_SYNC)
        live(stack, sources, "127.0.0.1")
        upload_is_served(stack, tmp_path, "mine")

        stack.config["mode"] = "mirror"
        with pytest.raises(PulumiError, match="modeConfirmation 1"):
            stack.pulumi("preview")
        assert not set(stack.containers()) & set(_SYNC), "nothing was changed"

        stack.config |= {"modeConfirmation": 1, "ready": "in-sync"}
        stack.up()
        assert steps_of(stack) == {}
        assert set(stack.containers()) >= set(_SYNC)
        with node_of(stack, "::1", sources) as node:
            node.boot("tf-zos/zos-base.flist")


def test_a_standalone_hub_starts_empty_and_serves_what_is_uploaded(
    place: Ground, master: Upstream, tmp_path: Path
) -> None:
    with mirror_stack(place, master, tmp_path, mode="standalone", ready="started") as stack:
        stack.up()
        with node_of(stack, "127.0.0.1") as node:
            assert node.bootable() == []
        upload_is_served(stack, tmp_path, "first")
        assert steps_of(stack) == {}
