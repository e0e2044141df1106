"""The hub stand-in answers as 0-hub did when it was recorded; GRIDHUB_REAL_HUB names a real one.

See servers.py for how to name one. What is not asked is in LEFT_OUT, with the reason. Not compared
are `connection` (the stand-in is what a client sees behind Caddy, so it keeps connections), the
lines of a start's log but for a password in it, and what a pack that failed leaves in its flist.
"""

import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest
import requests

from tests.golden import servers
from tests.golden.flists import told
from tests.golden.replay_http import Json, Recording, answers, replay
from tests.sandbox.flist import Flist
from tests.sandbox.host.ports import free_port
from tests.sandbox.services.hub_api import HubOptions
from tests.sandbox.services.zdb import Settings
from tests.sandbox.upstream import Upstream, UpstreamModel
from tests.sandbox.upstream.nodes import File, Link, Repository, Tag

RECORDING: Final = Recording.of("hub")
PASSWORD: Final = str(RECORDING.document["config"]["backend-internal-pass"])
PROTECTED: Final = Settings(admin=PASSWORD, protect=True)
STARTS: Final = {start["name"]: start for start in RECORDING.document["starts"]}
UNPACKED: Final = RECORDING.document["unpacked"]
AS_ROOT: Final = "root with all capabilities"
AS_NOBODY: Final = "an unprivileged user (10005) without capabilities"
NOBODY: Final = 10005

# Requests that neither this project, nor a node, nor zflist, nor an operator's tool makes.
LEFT_OUT: Final = {
    "log-in pages of upstream's identity provider, for a person's browser": re.compile(
        r"GET /(login.*|logout|token.*|callback_.*|_iyo_callback|listen/.*)"
    ),
    "the length of this answer holds the length of the folder's own path": re.compile(
        r"HEAD /api/fileslist"
    ),
}
# Groups of the recording: answers compared (all requests, and the tree at the end) and left out.
GROUPS: Final = {
    "readonly: reads": (628, 11),
    "readonly: writes are refused": (72, 0),
    "writable": (263, 0),
}


def _is_left_out(request: Json) -> bool:
    asked = f"{request['method']} {request['path']}"
    return any(pattern.fullmatch(asked) for pattern in LEFT_OUT.values())


def test_no_group_is_forgotten() -> None:
    assert {group["name"] for group in RECORDING.document["groups"]} == set(GROUPS)


@pytest.mark.parametrize("name", GROUPS)
def test_every_recorded_request_is_answered_as_recorded(name: str, tmp_path: Path) -> None:
    group = RECORDING.group(name)
    folder = tmp_path / "public"
    RECORDING.prepare(group, folder)
    with servers.zdb(PROTECTED) as zdb:
        changes = {key.replace("-", "_"): value for key, value in group["config"].items()}
        config = servers.hub_config(RECORDING, tmp_path, zdb.port, **changes)
        with servers.hub(config, tmp_path) as url:
            result = replay(RECORDING, group, url, folder, _is_left_out)
    assert "\n".join(map(str, result.differences)) == ""
    left_out = sum(_is_left_out(exchange["request"]) for exchange in group["exchanges"])
    assert (result.compared, left_out) == GROUPS[name]


# What the master's stand-in, whose tree is in memory, leaves out beside that.
MASTER_LEFT_OUT: Final = {
    "the folder above the repositories": re.compile(r".* .*/?(\.\.?|%2e|%2e%2e)(/.*|%2f.*)?"),
    "flists opened by a hub: people ask for that": re.compile(
        r"\w+ /api/flist/[^/]+/[^/]+(/|/metadata|/%2f)?"
    ),
    "what only a user of the own hub asks": re.compile(r"GET /(api/flist/me/?|readonly)"),
}


def _fits_the_model(item: Json) -> bool:
    """Return whether repositories, flists, tags and links between them are all that it takes."""
    users, *path = item["path"].split("/")
    if users != "users" or not path:
        return False
    if item["type"] == "directory":
        return len(path) == 1 or path[1].startswith(".tag-")
    if item["type"] == "link":
        target = item["target"]
        return (
            len(path) > 1 and target not in {"../../secret.flist", "../tf-zos"} and target[0] != "/"
        )
    return len(path) == 2


def _model(items: list[Json]) -> UpstreamModel:
    model = UpstreamModel()
    for item in items:
        repository, *inside = item["path"].split("/")[1:]
        held = model.repositories.setdefault(repository, Repository(0.0))
        if not inside:
            held.modified = item["mtime"]
        elif item["type"] == "directory":
            held.nodes[inside[0]] = Tag({}, item["mtime"])
        elif item["type"] == "file":
            held.nodes[inside[0]] = File(RECORDING.content(item["content"]), item["mtime"])
        elif len(inside) == 1:
            held.nodes[inside[0]] = Link(item["target"], item["mtime"])
        else:
            tag = held.nodes[inside[0]]
            assert isinstance(tag, Tag)
            tag.links[inside[1]] = Link(item["target"], item["mtime"])
    return model


def test_the_masters_hub_answers_as_one_with_a_disk(tmp_path: Path) -> None:
    group = RECORDING.group("readonly: reads")
    held = [item for item in group["tree"] if _fits_the_model(item)]
    top = {"path": "users", "type": "directory", "mtime": 0}
    shared = {**group, "tree": [top, *held]}
    RECORDING.prepare(shared, tmp_path / "public")

    def skipped(request: Json) -> bool:
        asked = f"{request['method']} {request['path']}"
        left_out = any(pattern.fullmatch(asked) for pattern in MASTER_LEFT_OUT.values())
        return left_out or _is_left_out(request)

    folder = tmp_path / "public"
    with servers.zdb(PROTECTED) as zdb:
        config = servers.hub_config(RECORDING, tmp_path, zdb.port)
        with servers.hub(config, tmp_path) as url:
            found = list(answers(RECORDING, shared, url, folder, skipped))
    exchanges = [{**exchange, "answer": answer} for _, exchange, answer in found]
    options = HubOptions(
        official=tuple(config["official-repositories"]),
        website=config["public-website"],
        backend=f"zdb://{config['backend-public-host']}:{config['backend-public-port']}",
    )
    with Upstream(_model(held), hub_options=options) as master:
        url = master.hub.url
        result = replay(RECORDING, {**shared, "exchanges": exchanges}, url, folder)
    assert "\n".join(map(str, result.differences)) == ""
    assert result.compared == 528


# -- the start ---------------------------------------------------------------------------------


def _zdb_settings(start: Json) -> Settings | None:
    """Return the recorded 0-db's settings; None where there was none."""
    flags = start["0-db flags"]
    if flags is None:
        return None
    return Settings(admin=PASSWORD if "--admin" in flags else None, protect="--protect" in flags)


@contextmanager
def _zdb_port(start: Json) -> Iterator[int]:
    settings = _zdb_settings(start)
    if settings is None:
        yield free_port()
        return
    with servers.zdb(settings) as zdb:
        yield zdb.port


def _recorder(place: Path) -> Path:
    """Write an executable that calls zflist and writes down how, and what came of it."""
    program = place / "zflist"
    program.write_text(
        f"""#!{sys.executable}
import json, os, subprocess, sys
done = subprocess.run(
    [*{servers.zflist_command()!r}, *sys.argv[1:]], capture_output=True, text=True
)
names = ("ZFLIST_BACKEND", "ZFLIST_JSON", "ZFLIST_PROGRESS", "ZFLIST_MNT")
call = dict(arguments=sys.argv[1:], exit=done.returncode, output=done.stdout, errors=done.stderr)
with open({str(place / "calls")!r}, "a") as file:
    file.write(json.dumps({{**call, **{{name: os.environ[name] for name in names}}}}) + "\\n")
sys.stdout.write(done.stdout)
sys.exit(done.returncode)
"""
    )
    program.chmod(0o755)
    return program


def _calls(place: Path, host: str, port: int) -> list[Json]:
    """Return zflist's calls as they were recorded: with the recorded host, port and password."""
    text = (place / "calls").read_text()
    known = {
        json.dumps(str(port))[1:-1]: "49922",
        PASSWORD: "<the admin password>",
        # Without a resolver a name is not unknown, but it leads as little anywhere.
        "Temporary failure in name resolution": "Name or service not known",
    }
    for found, shown in known.items():
        text = text.replace(found, shown)
    calls = [json.loads(line) for line in text.splitlines()]
    for call in calls:
        environ = (call.pop("ZFLIST_JSON"), call.pop("ZFLIST_PROGRESS"))
        assert environ == ("1", "1")
        mounted = Path(call.pop("ZFLIST_MNT"))
        assert (mounted.parent, mounted.name[:10]) == (place / "work" / "temp", "workspace-")
    return calls


def _kept(work: Path) -> list[Json]:
    """Return what the flists say of themselves that still are open in the hub's workspaces."""
    found = []
    for path in (work / "temp").glob("*/flistdb.sqlite3"):
        with closing(sqlite3.connect(path)) as database:
            rows = dict(database.execute("SELECT key, value FROM metadata"))
        found.append({name: json.loads(value) for name, value in rows.items()})
    return found


def _left(work: Path) -> dict[str, str]:
    """Return what stands in the hub's work folder, with modes, random names neutral."""
    found = {}
    for path in sorted(work.rglob("*")):
        name = re.sub(r"workspace-[^/]*", "workspace-<random>", str(path.relative_to(work)))
        mode = f"mode {path.stat().st_mode & 0o7777:04o}"
        kind = "directory" if path.is_dir() else "file"
        found[f"{name}/" if path.is_dir() else name] = f"{kind}, {mode}"
    return found


@pytest.mark.parametrize("name", STARTS)
def test_a_hub_starts_or_dies_before_a_0_db_as_recorded(name: str, tmp_path: Path) -> None:
    start = STARTS[name]
    (tmp_path / "work").mkdir()
    (tmp_path / "public" / "users").mkdir(parents=True)
    password = start["backend-internal-pass"]
    recorded = json.loads(start["zflist"][0]["ZFLIST_BACKEND"])
    with _zdb_port(start) as zdb_port:
        config = servers.hub_config(
            RECORDING,
            tmp_path,
            zdb_port,
            listen_port=free_port(),
            backend_internal_host=recorded["host"],
            backend_internal_name=start["backend-internal-name"],
            backend_internal_pass=PASSWORD if password == "<the admin password>" else password,
            readonly="writable" not in name,
            zflist_bin=str(_recorder(tmp_path)),
        )
        with servers.started(servers.hub_command(), config, tmp_path) as service:
            assert service.wait_until_it_listens() == start["starts"]
            if start["starts"]:
                answer = requests.get(f"{service.url}/api/repositories", timeout=30)
                assert answer.status_code == start["GET /api/repositories"]
            else:
                assert service.process.wait(30) == start["exit"]
            assert _left(tmp_path / "work") == start["workdir after the start"]
    assert _left(tmp_path / "work") == start["workdir after the end"]
    backend: Json = {
        "password": config["backend-internal-pass"],
        "namespace": "default",
        "host": "127.0.0.1",
        "port": zdb_port,
    }
    assert _kept(tmp_path / "work") == ([{"backend": backend}] if start["starts"] else [])
    wanted = json.loads(json.dumps(start["zflist"]).replace(str(recorded["port"]), "49922"))
    assert _calls(tmp_path, recorded["host"], zdb_port) == wanted
    shown = config["backend-internal-pass"] or "no password"
    in_log = any(shown in line for line in service.lines)
    assert in_log == start["password stands in its log"]


def _front(place: Path, behind: Path) -> Path:
    """Write an executable that is hub_tools/front.py as `zflist`, before another zflist."""
    program = place / "front"
    program.write_text(
        f"""#!{sys.executable}
import sys
sys.path.insert(0, {str(servers.PROJECT)!r})
from hub_tools import front
front.REAL["zflist"] = {str(behind)!r}
sys.exit(front.main(["zflist", *sys.argv[1:]]))
"""
    )
    program.chmod(0o755)
    return program


def test_behind_our_front_a_hub_without_a_password_starts(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "public" / "users").mkdir(parents=True)
    with servers.zdb(PROTECTED) as zdb:
        config = servers.hub_config(
            RECORDING,
            tmp_path,
            zdb.port,
            listen_port=free_port(),
            backend_internal_pass="",
            zflist_bin=str(_front(tmp_path, _recorder(tmp_path))),
        )
        with servers.started(servers.hub_command(), config, tmp_path) as service:
            assert service.wait_until_it_listens(), service.lines
        assert "password" not in (tmp_path / "calls").read_text()
        backend = {"namespace": "default", "host": "127.0.0.1", "port": zdb.port}
        assert _kept(tmp_path / "work") == [{"backend": backend}]


# -- what an upload keeps ----------------------------------------------------------------------


@contextmanager
def _shared() -> Iterator[Path]:
    """Give a folder that another user can reach, with the sandbox's sources in it."""
    with tempfile.TemporaryDirectory(prefix="gridhub-recorded-") as name:
        place = Path(name)
        place.chmod(0o755)
        for part in ("services", "flist", "upstream"):
            source = servers.PROJECT / "tests" / "sandbox" / part
            shutil.copytree(source, place / "tests" / "sandbox" / part)
        yield place


def _unprivileged(command: list[str]) -> list[str]:
    """Run a command as the recorded one ran: a user of its own, no capability, none to gain."""
    identity = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    rights = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    return ["setpriv", *identity, *rights, *command]


def _python(as_user: servers.AsUser) -> str:
    """Return a Python that this user may run; the tests' own may stand in root's home."""
    for python in (sys.executable, "/usr/bin/python3"):
        # Not setpriv's own exec, which still has root's right to pass everywhere.
        command = as_user(["/bin/sh", "-c", f"exec {python} -c 'import sqlite3'"])
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return python
    raise RuntimeError("no Python that another user may run")


def _by_path(entries: list[Json]) -> dict[str, Json]:
    """Return entries without what was not recorded or the machine's lists of names decide."""
    dropped = {"path", "user", "group", "blocksize", "name", "parent", "key", "chunks"}
    return {
        entry["path"]: {key: value for key, value in entry.items() if key not in dropped}
        for entry in entries
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="owners and device nodes need root")
@pytest.mark.parametrize("archive", ["owners", "unreadable"])
@pytest.mark.parametrize("rights", [AS_ROOT, AS_NOBODY])
def test_an_upload_keeps_what_the_hubs_rights_allow(rights: str, archive: str) -> None:
    as_user = _unprivileged if rights == AS_NOBODY else list
    recorded = UNPACKED[rights][archive]
    with _shared() as place, servers.zdb(PROTECTED) as zdb:
        (place / "public").mkdir()
        (place / "work").mkdir()
        python = _python(as_user)
        program = place / "zflist"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(servers.zflist_command(python))} "$@"\n')
        program.chmod(0o755)
        config = servers.hub_config(
            RECORDING,
            place,
            zdb.port,
            readonly=False,
            authentication=False,
            listen_port=free_port(),
            zflist_bin=str(program),
        )
        if rights == AS_NOBODY:
            for folder in ("public", "work"):
                os.chown(place / folder, NOBODY, NOBODY)
        command, environ = servers.hub_command(python), {"PYTHONPATH": str(place)}
        with servers.started(command, config, place, environ, as_user) as service:
            assert service.wait_until_it_listens(), service.lines
            data = RECORDING.content({"archive": archive})
            url = f"{service.url}/api/flist/me/upload"
            answer = requests.post(url, files={"file": (f"{archive}.tar.gz", data)}, timeout=60)
            assert answer.status_code == recorded["answer"]["status"], service.lines
            packed = place / "public" / "users" / "Administrator" / f"{archive}.flist"
            flist = Flist.decode(packed.read_bytes())
    assert answer.json() == recorded["answer"]["json"]
    assert json.loads(flist.metadata["backend"]) == json.loads(recorded["metadata"]["backend"])
    if answer.json()["payload"]["files"]["success"]:
        assert _by_path(told(flist)) == _by_path(recorded["entries"])
