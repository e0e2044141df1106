"""Tags become digests, asked of a registry that wants a token; the rest of the file stays."""

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from cli import pin_images
from cli.registry import ImageName, RegistryError, digest_of, open_session
from cli.stack import StackFileError
from tests.cli.conftest import run

INDEX = "application/vnd.oci.image.index.v1+json"


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


@dataclass
class Registry:
    """A scripted registry: tags it knows, and what it was asked."""

    port: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    scheme: str = "Bearer"
    public: bool = True

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


def _handler(registry: Registry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            registry.asked.append(self.path)
            scope = f"repository:{self.path.split('/manifests/')[0].removeprefix('/v2/')}:pull"
            if self.headers.get("Authorization") != f"Bearer token-for-{scope}":
                self._challenge(scope)
                return
            name = self.path.removeprefix("/v2/").replace("/manifests/", ":")
            known = registry.tags.get(name)
            self.send_response(200 if known and INDEX in self.headers["Accept"] else 404)
            self.send_header("Docker-Content-Digest", known or "")
            self.end_headers()

        def _challenge(self, scope: str) -> None:
            realm = f"http://127.0.0.1:{registry.port}/token"
            self.send_response(401)
            self.send_header(
                "WWW-Authenticate",
                f'{registry.scheme} realm="{realm}",service="scripted",scope="{scope}"',
            )
            self.end_headers()

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            self.send_response(200 if registry.public else 403)
            self.end_headers()
            answer = {"token": f"token-for-{query['scope'][0]}"}
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            return

    return Handler


@pytest.fixture
def registry() -> Iterator[Registry]:
    made = Registry()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(made))
    made.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_a_tag_becomes_the_digest_of_its_index(registry: Registry) -> None:
    registry.tags["grid/hub:master"] = _digest("hub")
    image = ImageName(registry.host, "grid/hub", "master")
    assert digest_of(image, open_session()) == _digest("hub")
    assert registry.asked == ["/v2/grid/hub/manifests/master"] * 2


def test_each_refusal_names_its_remedy(registry: Registry) -> None:
    session = open_session()
    missing = ImageName(registry.host, "grid/hub", "missing")
    with pytest.raises(RegistryError, match="no such tag; check the name"):
        digest_of(missing, session)
    registry.tags["grid/hub:missing"] = "sha512:unexpected"
    with pytest.raises(RegistryError, match="no sha256 digest"):
        digest_of(missing, session)
    registry.public = False
    with pytest.raises(RegistryError, match="is it private"):
        digest_of(missing, session)
    registry.scheme = "Basic"
    with pytest.raises(RegistryError, match="a login of a kind that is not known"):
        digest_of(missing, session)


@pytest.mark.parametrize("bad", ["refuses", "leads nowhere"])
def test_an_address_that_does_not_do_costs_no_time_out(
    bad: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token is asked for at another name, and each of several images anew."""
    registry.tags["grid/hub:master"] = _digest("hub")
    resolve = socket.getaddrinfo

    def answer(host: str, port: int, *rest: Any, **options: Any) -> Any:
        if options.get("flags"):
            return resolve(host, port, *rest, **options)
        both = ("127.0.0.2", "127.0.0.1")
        return [found for one in both for found in resolve(one, port, *rest, **options)]

    image = ImageName(f"localhost:{registry.port}", "grid/hub", "master")
    with contextlib.ExitStack() as stack:
        if bad == "leads nowhere":
            # The queue of a listener that accepts nobody is full: each SYN is dropped.
            place = ("127.0.0.2", registry.port)
            stack.enter_context(socket.create_server(place, backlog=0))
            for _ in range(8):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(place)
        monkeypatch.setattr(socket, "getaddrinfo", answer)
        began = time.monotonic()
        for _ in range(3):
            assert digest_of(image, open_session()) == _digest("hub")
        assert time.monotonic() - began < 10


def test_a_registry_that_is_down_is_reported() -> None:
    with pytest.raises(RegistryError, match="cannot be reached"):
        digest_of(ImageName("127.0.0.1:1", "grid/hub", "master"), open_session())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("caddy", ImageName("docker.io", "library/caddy", "latest")),
        ("caddy:2.8.4", ImageName("docker.io", "library/caddy", "2.8.4")),
        ("grid/hub:master", ImageName("docker.io", "grid/hub", "master")),
        ("ghcr.io/grid/0-db:v2", ImageName("ghcr.io", "grid/0-db", "v2")),
        ("127.0.0.1:5000/hub@sha256:0", ImageName("127.0.0.1:5000", "hub", "latest")),
    ],
)
def test_image_names_are_read_as_docker_reads_them(text: str, name: ImageName) -> None:
    assert ImageName.parse(text) == name


@pytest.fixture
def path(project: Path) -> Path:
    return project / "stacks" / "Pulumi.x.yaml"


def _stack_file(registry: Registry, path: Path) -> str:
    text = f"""# A mirror
encryptionsalt: v1:abc=
config:
  gridhub:domain: grid.example.org  # the domain
  gridhub:images:
    # built here
    zdb: localhost/gridhub-zdb:sandbox
    hub: {registry.host}/grid/hub:master  # follow master

    caddy: "{registry.host}/caddy:2@{_digest("old")}"
    # of the agents
    python: '{registry.host}/python:3'
  gridhub:mode: ~
  gridhub:preflight:
      ignore:
      - records
"""
    path.write_text(text)
    return text


def _pinnable(registry: Registry) -> dict[str, str]:
    """Let the registry have all images; returns what each is replaced by."""
    names = {"grid/hub:master": "hub", "caddy:2": "caddy", "python:3": "python"}
    registry.tags |= {name: _digest(content) for name, content in names.items()}
    return {
        f"{registry.host}/grid/hub:master": f"{registry.host}/grid/hub:master@{_digest('hub')}",
        f"caddy:2@{_digest('old')}": f"caddy:2@{_digest('caddy')}",
        f"{registry.host}/python:3": f"{registry.host}/python:3@{_digest('python')}",
    }


def test_only_the_digests_of_the_stack_file_change(registry: Registry, path: Path) -> None:
    expected = _stack_file(registry, path)
    for old, new in _pinnable(registry).items():
        expected = expected.replace(old, new)
    assert run("pin-images", "--stack", "x").exit_code == 0
    assert path.read_text() == expected
    assert run("pin-images", "--stack", "x").exit_code == 0
    assert path.read_text() == expected


def test_a_dry_run_says_the_digests_and_writes_nothing(registry: Registry, path: Path) -> None:
    before = _stack_file(registry, path)
    _pinnable(registry)
    result = run("pin-images", "--stack", "x", "--dry-run")
    assert result.exit_code == 0
    assert _digest("hub") in result.output
    assert "nothing was written" in result.output
    assert path.read_text() == before


def test_one_image_that_cannot_be_pinned_leaves_the_file_alone(
    registry: Registry, path: Path
) -> None:
    before = _stack_file(registry, path)
    registry.tags["grid/hub:master"] = _digest("hub")
    result = run("pin-images", "--stack", "x")
    assert result.exit_code == 1
    assert path.read_text() == before
    assert f"{path}: {registry.host}/caddy:2: the registry has no such tag" in result.stderr
    assert "nothing was written" in result.stderr


def test_a_stack_file_without_images_gets_upstreams() -> None:
    pinned = pin_images.pinned(
        "config:\n  gridhub:domain: x.org\n", lambda reference: f"{reference}@pinned"
    )
    lines = pinned.splitlines()
    assert lines[:2] == ["config:", "  gridhub:images:"]
    assert lines[2] == "    zdb: ghcr.io/threefoldtech/0-db:development-v2@pinned"
    assert lines[-1] == "  gridhub:domain: x.org"


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        ("", ["config:", "IMAGES"]),
        ("# A\nconfig: {}  # none\n", ["# A", "config:  # none", "IMAGES"]),
        ("config:\nsalt: x", ["config:", "IMAGES", "salt: x"]),
        ("salt: x\n", ["salt: x", "config:", "IMAGES"]),
        ("config:\n    # One\n    a: b\n", ["config:", "IMAGES", "    # One", "    a: b"]),
    ],
)
def test_upstreams_images_come_first_and_nothing_else_moves(before: str, kept: list[str]) -> None:
    after = pin_images.pinned(before, lambda reference: reference)
    assert yaml.safe_load(after)["config"]["gridhub:images"] == pin_images.UPSTREAM
    lines = after.splitlines()
    first = next(number for number, line in enumerate(lines) if "gridhub:images:" in line)
    assert [*lines[:first], "IMAGES", *lines[first + 6 :]] == kept


def test_a_key_without_the_projects_name_is_pulumis_too() -> None:
    before = "config:\n  domain: x.org\n  images:\n    hub: x:1\n"
    after = pin_images.pinned(before, lambda reference: f"{reference}@pinned")
    assert after == before.replace("x:1", "x:1@pinned")


def test_a_digest_without_a_tag_cannot_be_renewed() -> None:
    with pytest.raises(StackFileError, match="names no tag"):
        pin_images.pin_reference(f"ghcr.io/grid/hub@{_digest('x')}", open_session())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("config:\n  gridhub:images:\n    zdb:\n      nested: x\n", "line 3: 'zdb' is not"),
        ("config:\n  gridhub:images:\n    zdb:\n", "line 3: 'zdb' is not"),
        ("config:\n  gridhub:images:\n    zdb: |\n      x\n", "line 3: 'zdb' is not"),
        ("config:\n  gridhub:images:\n    zdb: &a x\n    hub: *a\n", "line 3: 'zdb' is not"),
        ("a: &a x\nconfig:\n  gridhub:images:\n    hub: *a\n", "line 4: 'hub' is not"),
        ("config:\n  gridhub:images: [x]\n", "is not a mapping"),
        ("config: {a: b}\n", "write `config` as a block"),
        ("config: [\n", "not YAML"),
    ],
)
def test_what_cannot_be_edited_is_named(text: str, words: str) -> None:
    with pytest.raises(StackFileError, match=words):
        pin_images.pinned(text, lambda reference: reference)
