"""What editors, shells and web forms do to key files, which OpenSSH then refuses in riddles.

ssh takes an OpenSSH key only as ssh-keygen writes it: its first line, a newline and no carriage
return, to the newline after the last (OpenSSH: sshkey.c, private2_uudecode). Of anything else it
says "error in libcrypto", or nothing.
"""

import codecs
import os
import re
import stat
from typing import Final

_BEGIN: Final = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_AS_WRITTEN: Final = re.compile(
    _BEGIN + rb"\n[A-Za-z0-9+/=\s]*\n-----END OPENSSH PRIVATE KEY-----\n", re.ASCII
)
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def fault_of_encoding(data: bytes) -> tuple[str, str] | None:
    """Return what is wrong with the encoding of a file of keys, and the remedy (with {path})."""
    if data.startswith(_UTF_16) or b"\0" in data[:200]:
        return (
            "is UTF-16, as PowerShell's > writes it",
            "iconv -f UTF-16 -t UTF-8 {path} > NEW, and use that",
        )
    if data.startswith(codecs.BOM_UTF8):
        return "begins with a byte order mark", "sed -i '1s/^\\xef\\xbb\\xbf//' {path}"
    return None


def fault_of_key(data: bytes) -> tuple[str, str] | None:
    """Return why ssh cannot read a private key that is whole but for its text, and the remedy."""
    if fault := fault_of_encoding(data):
        return fault
    # The older forms are read by OpenSSL, which is not so strict.
    if _BEGIN not in data or _AS_WRITTEN.match(data):
        return None
    if b"\r" in data:
        return "has the line ends of Windows (CR LF)", "sed -i 's/\\r$//' {path}"
    if _AS_WRITTEN.match(data + b"\n"):
        return "does not end with a newline", "echo >> {path}"
    return (
        "has lines that are joined, blanks around them, or more before the first",
        "copy it anew, byte for byte, from where ssh-keygen wrote it",
    )


def fault_of_mode(found: os.stat_result) -> tuple[str, str] | None:
    """Return why ssh ignores a private key that others may read, and the remedy."""
    # One that is somebody else's may have any mode (OpenSSH: authfile.c, sshkey_perm_ok).
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid == os.getuid() and mode & 0o077:
        return f"is open to others (mode {mode:04o})", "chmod 600 {path}"
    return None
