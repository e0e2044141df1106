"""Key files as editors, shells and web forms leave them: what ssh cannot read is named in words."""

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import paramiko
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.providers.host.connection import HostConnection, HostKeyError, HostLoginError, SshAddress
from sync.providers.host.host_keys import load, pin, pinned
from sync.providers.host.key_text import fault_of_key
from sync.providers.host.ssh import _load_key
from tests.sandbox.host import sshd

HOST = SshAddress("root", "mirror.example", 2222)
NAME = "[mirror.example]:2222"

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "CR LF": lambda data: data.replace(b"\n", b"\r\n"),
    "CR": lambda data: data.replace(b"\n", b"\r"),
    "no newline at the end": lambda data: data.rstrip(b"\n"),
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "UTF-16 with a mark": lambda data: data.decode().encode("utf-16"),
    "UTF-16 without": lambda data: data.decode().encode("utf-16-le"),
    "an empty line first": lambda data: b"\n" + data,
    "indented": lambda data: b"".join(b"  " + line for line in data.splitlines(keepends=True)),
    "blanks at line ends": lambda data: data.replace(b"\n", b" \n"),
    "one line": lambda data: data.replace(b"\n", b" ") + b"\n",
}
WORDS = {
    "CR LF": r"Windows.*sed -i 's/\\r\$//' ",
    "CR": "Windows",
    "no newline at the end": "does not end with a newline.*echo >> ",
    "a byte order mark": "byte order mark.*sed",
    "UTF-16 with a mark": "UTF-16.*iconv",
    "UTF-16 without": "UTF-16.*iconv",
}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sshd.missing().startswith("needs Debian"):
        pytest.skip(sshd.missing())
    return sshd.generate_key(tmp_path_factory.mktemp("key") / "id")


def ssh_reads(path: Path) -> bool:
    """Return whether OpenSSH itself reads a private key."""
    path.chmod(0o600)
    command = ["ssh-keygen", "-y", "-P", "", "-f", str(path)]
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_private_key_that_ssh_does_not_read_is_named(
    key: Path, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "id"
    path.write_bytes(DAMAGES[damage](key.read_bytes()))
    assert not ssh_reads(path)
    way = HostConnection("ssh://root@mirror.example", str(path))
    with pytest.raises(HostLoginError, match=WORDS.get(damage, "copy it anew")):
        _load_key(way)


@pytest.mark.parametrize("remedied", ["CR LF", "no newline at the end", "a byte order mark"])
def test_the_remedy_makes_it_right(key: Path, tmp_path: Path, remedied: str) -> None:
    path = tmp_path / "id"
    path.touch(mode=0o600)
    path.write_bytes(DAMAGES[remedied](key.read_bytes()))
    _what, remedy = fault_of_key(path.read_bytes()) or ("", "false")
    subprocess.run(["sh", "-c", remedy.format(path=path)], check=True, timeout=30)
    assert path.read_bytes() == key.read_bytes()
    assert _load_key(HostConnection("ssh://root@mirror.example", str(path))) is not None


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700, 0o604, 0o640, 0o644, 0o660, 0o666, 0o755])
def test_a_private_key_that_ssh_ignores_for_its_mode_is_named(
    key: Path, tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "id"
    path.write_bytes(key.read_bytes())
    path.chmod(mode)
    way = HostConnection("ssh://root@mirror.example", str(path))
    command = ["ssh-keygen", "-y", "-P", "", "-f", str(path)]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    if done.returncode == 0:
        assert _load_key(way) is not None
        return
    assert b"too open" in done.stderr
    with pytest.raises(HostLoginError, match=f"open to others .mode {mode:04o}.*chmod 600 {path}"):
        _load_key(way)
    path.chmod(0o600)
    assert _load_key(way) is not None


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_what_is_called_right_is_read_by_ssh(key: Path, data: st.DataObject) -> None:
    """Wherever white space or a mark comes in: what ssh does not read is never taken in silence."""
    whole = key.read_bytes()
    at = data.draw(st.integers(0, len(whole)))
    text = data.draw(st.sampled_from([b"\r", b" ", b"\t", b"\n", b"\xef\xbb\xbf"]))
    path = key.with_name("tried")
    path.write_bytes(whole[:at] + text + whole[at:])
    if fault_of_key(path.read_bytes()) is None and not ssh_reads(path):
        with pytest.raises(HostLoginError):
            _load_key(HostConnection("ssh://root@mirror.example", str(path)))


@pytest.mark.parametrize("form", ["PEM", "PKCS8", "RFC4716"])
@pytest.mark.parametrize("kind", ["rsa -b 1024", "ecdsa", "ed25519"])
def test_keys_as_ssh_keygen_writes_them_have_no_fault(tmp_path: Path, kind: str, form: str) -> None:
    path = tmp_path / "id"
    command = ["ssh-keygen", "-q", "-t", *kind.split(), "-m", form, "-N", "", "-f", str(path)]
    subprocess.run(command, check=True, timeout=60)
    assert fault_of_key(path.read_bytes()) is None


# known_hosts


@pytest.fixture(scope="module")
def public(key: Path) -> str:
    return " ".join(key.with_suffix(".pub").read_text().split()[:2])


HARMLESS: dict[str, Callable[[str], bytes]] = {
    "as it is": lambda line: line.encode(),
    "CR LF": lambda line: f"# ours\r\n{line}\r\n".encode(),
    "blanks": lambda line: f"\n\n  {line}  \n".encode(),
    "tabs": lambda line: line.replace(" ", "\t").encode(),
    "two blanks": lambda line: line.replace(" ", "  ").encode(),
    "a comment behind": lambda line: f"{line} root@mirror\n".encode(),
    "a comment that is no UTF-8": lambda line: b"# J\xfcrgen\n" + line.encode(),
    "a broken line beside it": lambda line: f"{line[:40]}\n{line}\n".encode(),
    "a kind of the future": lambda line: f"{NAME} ssh-future AAAA\n{line}\n".encode(),
    "other names": lambda line: line.replace(NAME, f"a,{NAME},b").encode(),
    "an authority": lambda line: f"@cert-authority *.example {line}\n{line}".encode(),
}


@pytest.mark.parametrize("form", HARMLESS)
def test_a_pin_is_found_as_openssh_finds_it(tmp_path: Path, public: str, form: str) -> None:
    path = tmp_path / "known_hosts"
    path.write_bytes(HARMLESS[form](f"{NAME} {public}"))
    found = subprocess.run(
        ["ssh-keygen", "-F", NAME, "-f", str(path)], capture_output=True, timeout=30, check=False
    )
    assert public.encode() in b" ".join(found.stdout.split()).replace(b"\t", b" ")
    assert [f"{key.get_name()} {key.get_base64()}" for key in pinned(path, HOST)] == [public]


USELESS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "UTF-16 with a mark": (lambda line: line.encode("utf-16"), "UTF-16.*iconv"),
    "UTF-16 without": (lambda line: line.encode("utf-16-le"), "UTF-16"),
    "a byte order mark": (lambda line: b"\xef\xbb\xbf" + line.encode(), "byte order mark"),
    "cut off": (lambda line: line[:40].encode(), "line 1 is no line of a known_hosts file"),
    "a public key file": (lambda line: line.split(" ", 1)[1].encode(), "line 1 is no line"),
    "another file": (lambda _: b"# comment\n\n<html>not found</html>", "line 3 is no line"),
    "bytes": (lambda _: bytes(range(128, 256)), "line 1 is no line"),
    "a wrong key": (lambda line: line.replace("AAAA", "AAAB").encode(), "line 1 is no line"),
}


@pytest.mark.parametrize("form", USELESS)
def test_a_file_of_no_use_is_named_with_the_remedy(tmp_path: Path, public: str, form: str) -> None:
    make, words = USELESS[form]
    path = tmp_path / "known_hosts"
    path.write_bytes(make(f"{NAME} {public}\n"))
    with pytest.raises(HostKeyError, match=words):
        pinned(path, HOST)


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostKeyError, match=r"cannot be read \(Is a directory\)"):
        pinned(tmp_path, HOST)


def test_a_revoked_key_is_not_pinned(tmp_path: Path, public: str) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"{NAME} {public}\n@revoked * {public}\n")
    assert pinned(path, HOST) == []


def test_pinning_keeps_what_others_wrote_whatever_their_encoding(
    tmp_path: Path, public: str
) -> None:
    path = tmp_path / "known_hosts"
    path.write_bytes(b"# J\xfcrgen\r\n")
    kind, encoded = public.split()
    key = paramiko.PKey.from_type_string(kind, base64.b64decode(encoded))
    assert pin(path, HOST, key, replace=False)
    assert path.read_bytes() == f"{NAME} {public}\n".join(["# J\udcfcrgen\n", ""]).encode(
        errors="surrogateescape"
    )


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_no_content_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(data)
    try:
        load(path, paramiko.HostKeys())
    except HostKeyError as error:
        assert str(path) in str(error)  # noqa: PT017 - it need not be raised
