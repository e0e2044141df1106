"""The three modes: a mirror that is detached accepts uploads, and does not go back unasked."""

import base64
import shutil
import socket
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import urllib3

from cli.tokens import mint
from tests.e2e.nodes import live, node_of, upload
from tests.e2e.stack import Ground, MirrorStack, mirror_stack, steps_of
from tests.sandbox.pulumi.workspace import PulumiError
from tests.sandbox.upstream import Upstream

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]
_LIBRARY = Path(socket.__file__).parent
_SYNC = ("users", "kernels", "flists")


def archive_of(directory: Path, target: Path) -> Path:
    return Path(shutil.make_archive(str(target), "gztar", directory))


def token(stack: MirrorStack, user: str) -> str:
    seed = stack.pulumi("stack", "output", "hubSeed", "--show-secrets").strip()
    return mint(base64.b64decode(seed), user, int(time.time()))


def system_archive(target: Path) -> Path:
    """Return an archive with owners, modes, set-id bits and device nodes."""
    members = (
        ("home", tarfile.DIRTYPE, {"mode": 0o700, "uid": 1000, "gid": 1000}),
        ("home/key", tarfile.REGTYPE, {"mode": 0o600, "uid": 1000, "gid": 1001}),
        ("su", tarfile.REGTYPE, {"mode": 0o4755}),
        ("write", tarfile.REGTYPE, {"mode": 0o2755, "gid": 5}),
        ("tmp", tarfile.DIRTYPE, {"mode": 0o1777}),
        ("null", tarfile.CHRTYPE, {"mode": 0o666, "devmajor": 1, "devminor": 3}),
        ("sda", tarfile.BLKTYPE, {"mode": 0o660, "gid": 6, "devmajor": 8}),
    )
    return packed(target, *members)


def packed(target: Path, *members: tuple[str, bytes, dict[str, Any]]) -> Path:
    """Return an archive of empty members: name, type, other fields."""
    with tarfile.open(target, "w:gz") as archive:
        for name, kind, fields in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            for key, value in fields.items():
                setattr(info, key, value)
            archive.addfile(info)
    return target


def what_reaches_outside_is_refused(stack: MirrorStack, tmp_path: Path) -> None:
    """By the hub's own keys nobody would need to ask twice: they are in its configuration."""
    link = {"linkname": "/hub/src/config.py"}
    reaching: dict[str, list[tuple[str, bytes, dict[str, Any]]]] = {
        "readme": [(".README.md", tarfile.SYMTYPE, link)],
        "inside": [("a", tarfile.SYMTYPE, link), (".README", tarfile.LNKTYPE, {"linkname": "a"})],
        "hard": [("a", tarfile.LNKTYPE, {"linkname": "../../../secrets/zdb-admin"})],
        "member": [("../../../public/users/alice/planted.flist", tarfile.REGTYPE, {})],
    }
    for name, members in reaching.items():
        archive = packed(tmp_path / f"{name}.tar.gz", *members)
        status, answer = upload(stack, archive, token(stack, "alice"))
        assert status >= 400, (name, answer)
    said = stack.containers()["packer"].logs().decode()
    assert said.count("[+] refused: the upload ") == 2 * len(reaching), said
    assert not (stack.root / "0-hub_public/users/alice/planted.flist").exists()
    config = (stack.root / "secrets/hub/config.py").read_text()
    key = config.split("'threebot-privatekey': '")[1][:20].encode()
    for folder in ("0-hub_public", "0-hub_workdir"):
        for path in (stack.root / folder).rglob("*"):
            assert not path.is_file() or key not in path.read_bytes(), path


def an_uploaded_system_comes_back_whole(stack: MirrorStack, tmp_path: Path) -> None:
    """Owners, set-id bits and devices as a node mounts them."""
    archive = system_archive(tmp_path / "system.tar.gz")
    status, answer = upload(stack, archive, token(stack, "alice"))
    assert status == 200, answer
    unpacked = tmp_path / "system"
    unpacked.mkdir()
    subprocess.run(["tar", "-xpf", str(archive), "-C", str(unpacked)], check=True)
    with node_of(stack, "127.0.0.1") as node:
        node.boot("alice/system.flist", unpacked)
    containers = stack.containers()
    said = b"".join(container.logs() for container in containers.values()).decode(errors="replace")
    password = (stack.root / "secrets/packer/zdb-admin").read_text()
    assert password not in said
    left = [path for path in (stack.root / "0-hub_workdir").rglob("*") if path.is_file()]
    assert not [path for path in left if password.encode() in path.read_bytes()]
    assert list((stack.root / "0-hub_packing").iterdir()) == []


def a_mirror_opens_flists_without_secrets(stack: MirrorStack) -> None:
    url = f"http://127.0.0.1:{stack.http_port}/api/flist/tf-zos/zos-base.flist"
    named = {"Host": f"hub.{stack.domain}"}
    answer = urllib3.request("GET", url, headers=named, redirect=False, timeout=60)
    assert answer.status == 200
    assert answer.json()["content"]
    packer = stack.containers()["packer"]
    assert "zflist open: status 0" in packer.logs().decode()
    assert packer.exec_run(["ls", "/secrets"]).exit_code != 0
    assert packer.exec_run(["touch", "/public/planted"]).exit_code != 0


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
        an_uploaded_system_comes_back_whole(stack, tmp_path)
        what_reaches_outside_is_refused(stack, tmp_path)

        stack.config["mode"] = "mirror"
        with pytest.raises(PulumiError, match="modeConfirmation 1"):
            stack.pulumi("preview")
        assert not set(stack.containers()) & set(_SYNC), "nothing was changed"

        hub = {**stack.config.get("hub", {}), "inspection": True}
        stack.config |= {"modeConfirmation": 1, "ready": "in-sync", "hub": hub}
        stack.up()
        assert steps_of(stack) == {}
        assert set(stack.containers()) >= {*_SYNC, "packer"}
        a_mirror_opens_flists_without_secrets(stack)
        with node_of(stack, "::1", sources) as node:
            node.boot("tf-zos/zos-base.flist")


def its_state_comes_back_from_its_export(stack: MirrorStack, backup: Path) -> None:
    """Lose the state and import its export, as docs/operations.md says."""
    seed = stack.pulumi("stack", "output", "hubSeed", "--show-secrets")
    stack.pulumi("stack", "export", "--file", str(backup))
    assert seed.strip() not in backup.read_text()
    stack.pulumi("stack", "rm", "--force", "--yes", "--preserve-config")
    stack.pulumi("stack", "init")
    stack.pulumi("stack", "import", "--file", str(backup))
    assert steps_of(stack, "--refresh") == {}
    assert stack.pulumi("stack", "output", "hubSeed", "--show-secrets") == seed


def test_a_standalone_hub_starts_empty_serves_what_is_uploaded_and_outlives_its_state(
    place: Ground, master: Upstream, tmp_path: Path
) -> None:
    with mirror_stack(place, master, tmp_path, mode="standalone", ready="started") as stack:
        stack.up()
        with node_of(stack, "127.0.0.1") as node:
            assert node.bootable() == []
        upload_is_served(stack, tmp_path, "first")
        assert steps_of(stack) == {}
        its_state_comes_back_from_its_export(stack, tmp_path / "backup.json")
