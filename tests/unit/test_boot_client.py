"""The client that boots decides whether a mirror works: it must notice everything that is wrong."""

import datetime as dt
import ipaddress
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.sandbox.client import BootClient, BootError, Mirror
from tests.sandbox.fetch import Resolver

from tests.sandbox.flist import Backend, Flist, pack_directory
from tests.sandbox.flist.chunks import CHUNK_BYTES
from tests.sandbox.upstream import Fault, Upstream, UpstreamModel, standard_world

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "sub" / "empty").mkdir(parents=True)
    (root / "sub" / "file").write_bytes(b"content")
    (root / "two-chunks").write_bytes(b"z" * CHUNK_BYTES + b"end")
    (root / "nothing").write_bytes(b"")
    (root / "link").symlink_to("sub/file")
    (root / "sub" / "file").chmod(0o750)
    return root


@pytest.fixture
def upstream(source: Path) -> Iterator[Upstream]:
    model = UpstreamModel()
    model.add_flist("repo", "one.flist", source)
    with Upstream(model, ("127.0.0.1", "::1")) as running:
        yield running


def _mirror(upstream: Upstream, address: str = "127.0.0.1") -> Mirror:
    resolver = Resolver()
    resolver.add("hub.grid.tf", 80, f"{address},{upstream.hub.port}")
    resolver.add("hub.grid.tf", 9900, f"{address},{upstream.zdb.port}")
    resolver.add("bootstrap.grid.tf", 80, f"{address},{upstream.bootstrap.port}")
    return Mirror("http://hub.grid.tf", "http://bootstrap.grid.tf", resolver=resolver)


@pytest.fixture(scope="module")
def world() -> Iterator[Upstream]:
    model = UpstreamModel()
    standard_world(model)
    with Upstream(model, ("127.0.0.1", "::1")) as running:
        yield running


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_whole_world_boots_byte_for_byte(world: Upstream, address: str) -> None:
    model = world.model
    sources = model.boot_sources()
    client = BootClient(_mirror(world, address))
    paths = client.bootable()
    assert len(paths) > len(model.flists()) >= 12
    assert set(paths) == set(sources)
    for path in paths:
        assert client.boot(path, sources[path]).files > 0
    for name in client.kernels():
        assert client.kernel(name) == model.kernels[name].data
    for mode, kernel in model.net_links.items():
        assert isinstance(kernel, str)
        assert client.kernel(f"net/{mode}.efi") == model.kernels[kernel].data
        assert f"/kernel/net/{mode}.efi" in client.boot_script(mode)


def test_what_was_rebuilt_is_told(upstream: Upstream, source: Path) -> None:
    done = BootClient(_mirror(upstream)).boot("repo/one.flist", source)
    assert (done.files, done.directories, done.links, done.chunks) == (3, 2, 1, 3)
    assert done.bytes == len(b"content") + CHUNK_BYTES + len(b"end")


def _different_content(root: Path) -> None:
    (root / "sub" / "file").write_bytes(b"Content")


def _different_mode(root: Path) -> None:
    (root / "sub" / "file").chmod(0o755)


def _different_link(root: Path) -> None:
    (root / "link").unlink()
    (root / "link").symlink_to("sub/other")


def _one_more(root: Path) -> None:
    (root / "more").touch()


def _one_less(root: Path) -> None:
    (root / "nothing").unlink()


def _file_instead_of_directory(root: Path) -> None:
    (root / "sub" / "empty").rmdir()
    (root / "sub" / "empty").touch()


@pytest.mark.parametrize(
    "change",
    [
        _different_content,
        _different_mode,
        _different_link,
        _one_more,
        _one_less,
        _file_instead_of_directory,
    ],
)
def test_every_difference_is_noticed(
    upstream: Upstream, source: Path, change: Callable[[Path], None]
) -> None:
    client = BootClient(_mirror(upstream))
    client.boot("repo/one.flist", source)
    change(source)
    with pytest.raises(BootError, match=r"repo/one\.flist"):
        client.boot("repo/one.flist", source)


def test_a_missing_chunk_is_named(upstream: Upstream) -> None:
    key = min(upstream.model.chunk_keys("repo", "one.flist"))
    upstream.model.drop_chunk(key)
    with pytest.raises(BootError, match=f"{key.hex()} is not in the 0-db"):
        BootClient(_mirror(upstream)).boot("repo/one.flist")


def test_a_damaged_chunk_is_named(upstream: Upstream) -> None:
    key = min(upstream.model.chunk_keys("repo", "one.flist"))
    upstream.model.corrupt_chunk(key)
    with pytest.raises(BootError, match=key.hex()):
        BootClient(_mirror(upstream)).boot("repo/one.flist")


@pytest.mark.parametrize("kind", ["status", "truncate", "flip", "reset", "html", "redirect-loop"])
def test_a_flist_that_does_not_arrive_whole_does_not_boot(upstream: Upstream, kind: str) -> None:
    upstream.hub_faults.add(Fault(kind, r"/repo/one\.flist", status=200))  # type: ignore[arg-type]
    with pytest.raises(BootError, match=r"repo/one\.flist"):
        BootClient(_mirror(upstream)).boot("repo/one.flist")


def test_an_md5_of_another_file_is_noticed(upstream: Upstream) -> None:
    upstream.hub_faults.add(Fault("flip", r".*\.md5", at_byte=0))
    with pytest.raises(BootError, match="MD5"):
        BootClient(_mirror(upstream)).boot("repo/one.flist")


def test_a_flist_without_a_backend_needs_one_given(upstream: Upstream, source: Path) -> None:
    bare = Flist(pack_directory(source).flist.entries).encode()
    upstream.model.add_flist("repo", "bare.flist", bare)
    mirror = _mirror(upstream)
    with pytest.raises(BootError, match="where its chunks are"):
        BootClient(mirror).boot("repo/bare.flist")
    given = replace(mirror, backend=Backend("127.0.0.1", upstream.zdb.port))
    BootClient(given).boot("repo/bare.flist", source)


def test_nothing_boots_from_a_0_db_that_is_gone(upstream: Upstream) -> None:
    upstream.zdb.stop()
    with pytest.raises(BootError, match="does not answer"):
        BootClient(_mirror(upstream)).boot("repo/one.flist")


# -- https -------------------------------------------------------------------------------------


def _authority(place: Path) -> tuple[Path, Path]:
    """Make a certificate for hub.grid.tf and 127.0.0.1; its file and the key's."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hub.grid.tf")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("hub.grid.tf"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    ca_file, key_file = place / "ca.pem", place / "key.pem"
    ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return ca_file, key_file


def test_https_is_checked_against_the_given_authority(tmp_path: Path, source: Path) -> None:
    ca_file, key_file = _authority(tmp_path)
    model = UpstreamModel()
    model.add_flist("repo", "one.flist", source)
    upstream = Upstream(model, ("127.0.0.1", "::1"))
    upstream.hub.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    upstream.hub.tls.load_cert_chain(ca_file, key_file)
    resolver = Resolver()
    resolver.add("hub.grid.tf", 443, f"127.0.0.1,{upstream.hub.port}")
    resolver.add("other.grid.tf", 443, f"127.0.0.1,{upstream.hub.port}")
    resolver.add("hub.grid.tf", 9900, f"127.0.0.1,{upstream.zdb.port}")
    mirror = Mirror("https://hub.grid.tf", resolver=resolver, ca_file=ca_file)
    with upstream:
        BootClient(mirror).boot("repo/one.flist", source)
        for wrong in (
            replace(mirror, ca_file=None),
            replace(mirror, hub="https://other.grid.tf"),
        ):
            with pytest.raises(BootError, match="certificate"):
                BootClient(wrong).boot("repo/one.flist", source)


# -- command line ------------------------------------------------------------------------------


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.sandbox.client", *arguments]
    return subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command_boots_compares_and_says_so(
    upstream: Upstream, source: Path, tmp_path: Path
) -> None:
    upstream.model.add_kernel("k.efi", b"kernel")
    for mode in ("prod", "test", "dev", "qa"):
        upstream.model.set_net_link(mode, "k.efi")
    sources = tmp_path / "sources.json"
    sources.write_text(json.dumps({"repo/one.flist": str(source)}))
    arguments = [
        *("--hub", "http://hub.grid.tf", "--bootstrap", upstream.bootstrap.url),
        *("--resolve", f"hub.grid.tf:80:127.0.0.1,{upstream.hub.port}"),
        *("--resolve", f"hub.grid.tf:9900:::1,{upstream.zdb.port}", "--sources", str(sources)),
    ]
    done = _run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"boots   repo/one.flist: 3 files, 3 chunks, {CHUNK_BYTES + 10} bytes" in done.stdout
    assert f"same as {source}" in done.stdout
    assert "kernel  net/prod.efi: 6 bytes" in done.stdout
    upstream.model.drop_chunk(min(upstream.model.chunk_keys("repo", "one.flist")))
    failed = _run(*arguments)
    assert failed.returncode == 1
    assert "FAILED  repo/one.flist: chunk" in failed.stdout
    assert "0 of 1 flists boot" in failed.stdout


def test_a_hub_that_is_not_there_is_named() -> None:
    done = _run("--hub", "http://127.0.0.1:1", os.devnull)
    assert done.returncode == 1
    assert "FAILED  http://127.0.0.1:1" in done.stdout
