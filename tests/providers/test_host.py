"""A mirror's whole life on its host, locally and by SSH, as root and as a member of docker."""

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sync.contract import layout
from sync.contract import spec as contract
from sync.providers.agent_bundle import AgentBundleProvider, agent_digest, bundle_path, packed
from sync.providers.host import cache, root_helper
from sync.providers.host.commands import Command, Completed
from sync.providers.host.connection import HostError, HostUnreachableError
from sync.providers.host.directories import HostDirectoriesProvider
from sync.providers.host.files import HostFilesProvider
from sync.providers.host.host import DataRoot, Host, connect
from sync.providers.jobs import view
from sync.providers.jobs.provider import JobProvider
from tests.providers.conftest import ENGINE_COMPARES, connection, directories
from tests.sandbox.host import sshd
from tests.sandbox.wan import Fault, Relay

pytestmark = pytest.mark.docker
ZDB = contract.ZdbEndpoint(host="127.0.0.1", port=1)
CANARY = "canary-7f3a-never-seen"
EVERY_WAY = pytest.mark.parametrize("host", ["local", "ssh-root", "ssh-member"], indirect=True)
TWO_WAYS = pytest.mark.parametrize("host", ["local", "ssh-member"], indirect=True)
LOCALLY = pytest.mark.parametrize("host", ["local"], indirect=True)


@pytest.fixture
def host(request: pytest.FixtureRequest, local_host: dict[str, str]) -> dict[str, str]:
    """Return the way to the host that the test names."""
    if request.param == "local":
        return local_host
    server: sshd.Sshd = request.getfixturevalue("ssh_server")
    user = "root" if request.param == "ssh-root" else request.getfixturevalue("docker_member")
    return server.connection(user, local_host["helperImage"])


def _seen(provider: Any, id_: str, outs: dict[str, Any]) -> dict[str, Any]:
    cache.invalidate()
    found = provider.read(id_, outs)
    return dict(found.outs) if found.id else {}


@EVERY_WAY
def test_directories_are_made_owned_repaired_and_purged(
    host: dict[str, str], data_root: str
) -> None:
    provider = HostDirectoriesProvider()
    inputs = directories(host, data_root)
    created = provider.create(inputs)
    assert created.outs is not None
    for entry in layout.directories(hub_writes=False):
        found = (Path(data_root) / entry.path).stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (
            entry.uid,
            entry.uid,
            entry.mode,
        )
    assert provider.diff(created.id, created.outs, inputs).changes is False
    os.chown(Path(data_root) / layout.CADDY_LOG, 5, 5)
    (Path(data_root) / layout.KERNELS / "net").rmdir()
    drifted = _seen(provider, created.id, created.outs)
    assert drifted["drift"] == [
        "0-bootstrap/kernels/net: missing",
        "caddy/log: belongs to 5, mode 750 instead of 10007, 750",
    ]
    assert provider.diff(created.id, drifted, inputs).changes is ENGINE_COMPARES
    provider.update(created.id, drifted, inputs)
    assert _seen(provider, created.id, drifted)["drift"] == []
    (Path(data_root) / "foreign").write_text("not ours")
    provider.delete(created.id, {**created.outs, "purge": False})
    assert (Path(data_root) / layout.ZDB_DATA).is_dir()
    provider.delete(created.id, created.outs)
    assert [path.name for path in Path(data_root).iterdir()] == ["foreign"]
    (Path(data_root) / "foreign").unlink()
    provider.delete(created.id, created.outs)
    assert _seen(provider, created.id, created.outs) == {}


@contextlib.contextmanager
def _watching_processes(word: str) -> Iterator[list[str]]:
    """Collect what any process's arguments or environment say, as long as the block runs."""
    found: list[str] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            for folder in Path("/proc").iterdir():
                for name in ("cmdline", "environ") if folder.name.isdigit() else ():
                    with contextlib.suppress(OSError):
                        if word.encode() in (folder / name).read_bytes():
                            found.append(f"{folder.name}/{name}")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join(10)


@LOCALLY
def test_nothing_is_made_where_the_storage_is_not_mounted(
    host: dict[str, str], data_root: str
) -> None:
    Path(data_root).mkdir()
    inputs = {**directories(host, data_root), "mustBeMount": True}
    with pytest.raises(HostError, match=r"is no mount.*mount the storage"):
        HostDirectoriesProvider().create(inputs)
    assert list(Path(data_root).iterdir()) == []


@EVERY_WAY
def test_a_secret_file_reaches_its_owner_and_nothing_else(
    host: dict[str, str], data_root: str, capfd: pytest.CaptureFixture[str]
) -> None:
    HostDirectoriesProvider().create(directories(host, data_root))
    provider = HostFilesProvider()
    secret = {"path": "secrets/zdb/zdb-admin", "uid": 10004.0, "mode": 384.0, "content": CANARY}
    inputs = {"host": host, "root": data_root, "files": [secret]}
    with _watching_processes(CANARY) as seen_elsewhere:
        created = provider.create(inputs)
        assert created.outs is not None
        seen = _seen(provider, created.id, created.outs)
        provider.update(created.id, seen, inputs)
    assert seen_elsewhere == []
    assert CANARY not in f"{created} {created.outs} {seen}"
    assert CANARY not in "".join(capfd.readouterr())
    path = Path(data_root) / "secrets/zdb/zdb-admin"
    assert path.read_text() == CANARY
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (10004, 0o600)
    assert seen["drift"] == []
    other = [{**secret, "path": "config/other"}]
    provider.update(created.id, seen, {**inputs, "files": other})
    assert not path.exists()
    assert (Path(data_root) / "config/other").read_text() == CANARY


@LOCALLY
def test_files_that_drift_are_reported_and_repaired(host: dict[str, str], data_root: str) -> None:
    HostDirectoriesProvider().create(directories(host, data_root))
    provider = HostFilesProvider()
    paths = ["config/changed", "config/gone", "config/owned", "config/kept"]
    files = [{"path": p, "uid": 0.0, "mode": 420.0, "content": p} for p in paths]
    inputs = {"host": host, "root": data_root, "files": files}
    created = provider.create(inputs)
    assert created.outs is not None
    (Path(data_root) / "config/changed").write_text("otherwise")
    (Path(data_root) / "config/gone").unlink()
    (Path(data_root) / "config/owned").chmod(0o666)
    drifted = _seen(provider, created.id, created.outs)
    assert drifted["drift"] == [
        "config/changed: changed on the host",
        "config/gone: missing",
        "config/owned: belongs to 0, mode 666 instead of 0, 644",
    ]
    provider.update(created.id, drifted, inputs)
    assert _seen(provider, created.id, drifted)["drift"] == []
    provider.delete(created.id, created.outs)
    assert _seen(provider, created.id, created.outs) == {}


@LOCALLY
def test_a_file_that_docker_turned_into_a_directory_is_made_a_file_again(
    host: dict[str, str], data_root: str
) -> None:
    HostDirectoriesProvider().create(directories(host, data_root))
    provider = HostFilesProvider()
    path = Path(data_root) / "config/service.py"
    file = {"path": "config/service.py", "uid": 0.0, "mode": 420.0, "content": "config = {}"}
    inputs = {"host": host, "root": data_root, "files": [file]}
    created = provider.create(inputs)
    assert created.outs is not None
    path.unlink()
    mount = [f"--volume={path}:/config.py:ro", "--entrypoint=cat", host["helperImage"]]
    engine = connect(connection(host))
    with pytest.raises(HostError):
        engine.run_docker("run", "--rm", *mount, "/config.py")
    assert path.is_dir()
    drifted = _seen(provider, created.id, created.outs)
    assert drifted["drift"] == ["config/service.py: changed on the host"]
    provider.update(created.id, drifted, inputs)
    assert _seen(provider, created.id, drifted)["drift"] == []
    assert engine.run_docker("run", "--rm", *mount, "/config.py") == "config = {}"


@dataclass(frozen=True)
class Agent:
    """An installed agent bundle."""

    host: dict[str, str]
    root: str
    digest: str

    @property
    def inputs(self) -> dict[str, Any]:
        path = bundle_path(self.root, self.digest)
        return {"host": self.host, "root": self.root, "digest": self.digest, "path": path}


@pytest.fixture
def agent(
    host: dict[str, str], data_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Agent:
    # Sources of this moment: other work in the checkout must not change them in mid-test.
    digest = agent_digest()
    monkeypatch.setattr("sync.providers.agent_bundle.agent_digest", lambda: digest)
    HostDirectoriesProvider().create(directories(host, data_root))
    made = Agent(host, data_root, digest)
    AgentBundleProvider().create(made.inputs)
    return made


@TWO_WAYS
def test_the_agent_runs_from_its_bundle_which_is_adopted_and_repaired(
    agent: Agent, helper_image: str
) -> None:
    provider = AgentBundleProvider()
    created = provider.create(agent.inputs)
    assert created.outs is not None
    folder = Path(agent.inputs["path"])
    script = "import pydantic, certifi, sync.contract.spec; print(pydantic.VERSION)"
    printed = subprocess.run(
        [
            *("docker", "run", "--rm", "--network=none", "--read-only", "--user=10001:10001"),
            *(f"--volume={folder}:/agent:ro", "--env=PYTHONDONTWRITEBYTECODE=1"),
            *("--env=PYTHONPATH=/agent/src:/agent/site-packages", helper_image),
            *("python3", "-c", script),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert printed.stdout.startswith("2.")
    before = folder.stat().st_ino
    (folder / "src/sync/contract/spec.py").unlink()
    drifted = _seen(provider, created.id, created.outs)
    assert drifted["drift"] == ["src/sync/contract/spec.py: missing"]
    assert provider.diff(created.id, drifted, agent.inputs).changes is ENGINE_COMPARES
    provider.update(created.id, drifted, agent.inputs)
    assert _seen(provider, created.id, drifted)["drift"] == []
    assert folder.stat().st_ino == before
    provider.delete(created.id, created.outs)
    assert _seen(provider, created.id, created.outs) == {}


def _start_container(agent: Agent, name: str, version: str, image: str) -> None:
    root, uid = Path(agent.root), layout.JOB_UIDS["kernels"]
    mounts = {
        root / "agent" / version: "/agent:ro",
        root / layout.job_spec_dir("kernels"): "/spec:ro",
        root / layout.job_state_dir("kernels"): "/state",
        root / layout.KERNELS: "/kernels",
    }
    command = [
        *("docker", "run", "--detach", f"--name={name}", "--network=none", "--read-only"),
        *(f"--user={uid}:{uid}", "--cap-drop=ALL", "--init"),
        *(f"--volume={path}:{target}" for path, target in mounts.items()),
        *("--env=PYTHONPATH=/agent/src:/agent/site-packages", "--env=PYTHONDONTWRITEBYTECODE=1"),
        *(f"--env=GRIDHUB_AGENT_VERSION={version}", image),
        *("python3", "-m", "sync.agent", "run", "kernels"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@pytest.fixture
def container(agent: Agent, helper_image: str) -> Iterator[str]:
    name = f"providers-{os.getpid()}-kernels"
    _start_container(agent, name, agent.digest, helper_image)
    yield name
    subprocess.run(["docker", "rm", "--force", name], check=False, capture_output=True, timeout=60)


def _job(agent: Agent, container: str, **changes: Any) -> dict[str, Any]:
    spec = contract.KernelsSpec(stack="test", sources=["http://127.0.0.1:1"])
    inputs = {
        "host": agent.host,
        "root": agent.root,
        "job": "kernels",
        "spec": spec.model_dump(mode="json"),
        "agentVersion": agent.digest,
        "containerName": container,
        "ready": "started",
        "readyTimeoutSeconds": 30.0,
        "purge": True,
    }
    return {**inputs, **changes}


@TWO_WAYS
def test_a_job_is_started_recorded_killed_repaired_and_stopped(
    agent: Agent, container: str
) -> None:
    provider = JobProvider()
    inputs = _job(agent, container)
    created = provider.create(inputs)
    assert created.outs is not None
    assert created.outs["readyState"] == "started: reached"
    assert created.outs["runningAgent"] == agent.digest
    assert created.outs["healthy"] is True
    assert provider.diff(created.id, created.outs, inputs).changes is False

    spec_file = Path(agent.root) / layout.job_spec_dir("kernels") / layout.SPEC_FILE
    written = spec_file.stat().st_ino
    adopted = provider.create(inputs)
    assert adopted.id == created.id
    assert spec_file.stat().st_ino == written

    subprocess.run(["docker", "kill", container], check=True, capture_output=True, timeout=60)
    killed = _seen(provider, created.id, created.outs)
    assert killed["__record"]["phase"] == "stopped"
    assert killed["repair"] == [f"{killed['reason']}; pulumi up repairs it"]
    assert "exit code 137" in killed["summary"]
    assert provider.diff(created.id, killed, inputs).changes is ENGINE_COMPARES
    repaired = provider.update(created.id, killed, inputs)
    assert repaired.outs is not None
    assert repaired.outs["healthy"] is True
    assert repaired.outs["readyState"] == "started: reached"

    spec_file.write_text(spec_file.read_text().replace("http://127.0.0.1:1", "http://127.0.0.1:2"))
    edited = _seen(provider, created.id, repaired.outs)
    assert edited["specDrift"] == "the spec on the host was changed"
    assert provider.diff(created.id, edited, inputs).changes is ENGINE_COMPARES
    rewritten = provider.update(created.id, edited, inputs)
    assert rewritten.outs is not None
    assert rewritten.outs["specDrift"] == ""

    provider.delete(created.id, rewritten.outs)
    assert not spec_file.exists()
    state = Path(agent.root) / layout.job_state_dir("kernels")
    assert not (state / "kernels.sqlite").exists()
    assert (Path(agent.root) / layout.KERNELS).is_dir()
    assert _seen(provider, created.id, rewritten.outs) == {}


@LOCALLY
def test_a_job_without_its_container_is_recorded_not_lost(agent: Agent) -> None:
    provider = JobProvider()
    inputs = _job(agent, "providers-no-such-container", readyTimeoutSeconds=0.5)
    created = provider.create(inputs)
    assert created.outs is not None
    found = (created.outs["__record"]["phase"], created.outs["healthy"])
    assert found == ("missing", False)
    assert "not reached within 0.5 s, its container is missing" in created.outs["readyState"]
    assert provider.diff(created.id, created.outs, inputs).changes is True


@LOCALLY
def test_versions_that_a_container_has_mounted_survive_an_update(
    agent: Agent, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(agent.root) / layout.AGENTS
    (folder / "0000000000000000").mkdir()
    newer = f"{int(agent.digest, 16) ^ 1:016x}"
    monkeypatch.setattr("sync.providers.agent_bundle.agent_digest", lambda: newer)
    news = {**agent.inputs, "digest": newer, "path": bundle_path(agent.root, newer)}
    AgentBundleProvider().update("id", agent.inputs, news)
    assert sorted(path.name for path in folder.iterdir()) == sorted([agent.digest, newer])


@LOCALLY
def test_sources_that_changed_under_the_program_are_refused(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync.providers.agent_bundle.agent_digest", lambda: "f" * 16)
    news = {**agent.inputs, "digest": "e" * 16}
    with pytest.raises(HostError, match=r"sources changed .* run pulumi up again"):
        AgentBundleProvider().create(news)


@pytest.mark.parametrize("root", ["/", "srv", "/srv/../etc"])
def test_a_data_root_that_is_none_is_refused(local_host: dict[str, str], root: str) -> None:
    with pytest.raises(HostError, match="not an absolute path below /"):
        HostDirectoriesProvider().create(directories(local_host, root))


@TWO_WAYS
def test_a_refresh_looks_at_the_host_once_for_jobs_and_once_for_files(
    host: dict[str, str], data_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = directories(host, data_root)
    HostDirectoriesProvider().create(made)
    file = {"path": "config/x", "uid": 0.0, "mode": 420.0, "content": "x"}
    files = {"host": host, "root": data_root, "files": [file]}
    written = HostFilesProvider().create(files)
    specs: list[contract.UsersSpec | contract.KernelsSpec | contract.FlistsSpec] = [
        contract.KernelsSpec(stack="t", sources=["http://127.0.0.1:1"]),
        contract.FlistsSpec(stack="t", sources=[ZDB], local_zdb=ZDB),
        contract.UsersSpec(
            stack="t", sources=["http://127.0.0.1:1"], sources_zdb=[ZDB], local_zdb=ZDB
        ),
    ]
    reads: list[tuple[Any, dict[str, Any]]] = [
        (HostDirectoriesProvider(), made),
        (HostFilesProvider(), written.outs or {}),
    ]
    for spec in specs:
        inputs = {
            **_job(Agent(host, data_root, "none"), "none", readyTimeoutSeconds=0.0),
            "job": spec.job,
            "spec": spec.model_dump(mode="json"),
        }
        reads.append((JobProvider(), JobProvider().create(inputs).outs or {}))
    cache.invalidate()
    commands: list[str] = []
    kind = type(connect(connection(host)))
    run = kind.run

    def counted(self: Host, command: Command) -> Completed:
        commands.append(command.argv[0])
        return run(self, command)

    monkeypatch.setattr(kind, "run", counted)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda pair: pair[0].read("id", pair[1]), reads))
    assert all(result.id == "id" for result in found)
    assert sorted(commands) == ["docker", "sh"]


def test_an_upload_cut_off_by_the_network_is_reported_and_the_next_one_succeeds(
    ssh_server: sshd.Sshd, data_root: str, helper_image: str
) -> None:
    (Path(data_root) / "agent").mkdir(parents=True)
    content = {"src/large": os.urandom(2 << 20)}
    manifest = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    whole = {**content, root_helper.MANIFEST: json.dumps(manifest).encode()}
    request: dict[str, Any] = {"agents": "agent", "digest": "v1"}
    archive = packed(whole)
    with Relay(("127.0.0.1", ssh_server.port)) as relay:
        port = relay.address[1]
        known = ssh_server.known_hosts.read_text().replace(f":{ssh_server.port} ", f":{port} ")
        known_hosts = Path(data_root).parent / "known_hosts"
        known_hosts.write_text(known)
        far = dataclasses.replace(ssh_server, port=port, known_hosts=known_hosts)
        root = DataRoot(connection(far.connection("root", helper_image)), data_root)
        relay.fault = Fault("reset", after_bytes=1 << 20, direction="up")
        with pytest.raises(HostUnreachableError, match="run pulumi up again"):
            root.as_root("install_bundle", [archive], **request)
        installed = root.as_root("install_bundle", [archive], **request)
    # The first one may still be running over there; hidden folders are its own.
    assert installed == "installed"
    shown = [path for path in (Path(data_root) / "agent").iterdir() if path.name[0] != "."]
    assert [path.name for path in shown] == ["v1"]
    assert root_helper.problems(shown[0]) == []


def test_a_data_root_that_the_user_may_not_enter_is_named_not_taken_for_empty(
    ssh_server: sshd.Sshd, docker_member: str, data_root: str, helper_image: str
) -> None:
    (Path(data_root) / "inner").mkdir(parents=True)
    Path(data_root).chmod(0o700)
    host = connection(ssh_server.connection(docker_member, helper_image))
    with pytest.raises(HostError, match=r"may not enter .*inner.*chmod a\+x"):
        view.view(DataRoot(host, f"{data_root}/inner"))
