"""The passphrase secrets provider: PBKDF2 and AES-256-GCM, `v1:` format.

Source of the format: sdk/go/common/resource/config/crypt.go and pkg/secrets/passphrase.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import threading
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.sandbox.engine.errors import EngineError

_ITERATIONS = 1_000_000
_KEY_BYTES = 32
_SALT_BYTES = 8
_NONCE_BYTES = 12
_PROBE = "pulumi"


def passphrase_from_environment() -> str:
    """Read PULUMI_CONFIG_PASSPHRASE or the file that PULUMI_CONFIG_PASSPHRASE_FILE names.

    Raises EngineError where neither is set or the file can not be read.
    """
    if (phrase := os.environ.get("PULUMI_CONFIG_PASSPHRASE")) is not None:
        return phrase
    if name := os.environ.get("PULUMI_CONFIG_PASSPHRASE_FILE"):
        try:
            return Path(name).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise EngineError(f"unable to read PULUMI_CONFIG_PASSPHRASE_FILE: {error}") from error
    raise EngineError(
        "passphrase must be set with PULUMI_CONFIG_PASSPHRASE or "
        "PULUMI_CONFIG_PASSPHRASE_FILE environment variables"
    )


def _seal(key: bytes, plaintext: str) -> str:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed = AESGCM(key).encrypt(nonce, plaintext.encode(), None)
    return f"v1:{base64.b64encode(nonce).decode()}:{base64.b64encode(sealed).decode()}"


def _open(key: bytes, ciphertext: str) -> str:
    version, nonce, sealed = ciphertext.split(":", 2)
    if version != "v1":
        raise EngineError(f"unknown version {version!r} of an encrypted value; expected v1")
    plain = AESGCM(key).decrypt(base64.b64decode(nonce), base64.b64decode(sealed), None)
    return plain.decode()


def _derive(phrase: str, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", phrase.encode(), salt, _ITERATIONS, _KEY_BYTES)


class Crypter:
    """Encrypts and decrypts the values of one stack; `state` is its `encryptionsalt`.

    The key is derived (some 0.3 s) on a thread of its own, beside the command's other work.
    """

    def __init__(self, phrase: str, state: str) -> None:
        self.state = state
        self._phrase = phrase
        self._key: bytes | None = None
        self._thread = threading.Thread(target=self._prepare, daemon=True)
        self._thread.start()

    @classmethod
    def create(cls, phrase: str) -> Crypter:
        """Make a crypter with a new salt."""
        salt = secrets.token_bytes(_SALT_BYTES)
        probe = _seal(_derive(phrase, salt), _PROBE)
        return cls(phrase, f"v1:{base64.b64encode(salt).decode()}:{probe}")

    def _prepare(self) -> None:
        _, salt, _ = self.state.split(":", 2)
        self._key = _derive(self._phrase, base64.b64decode(salt))

    def verify(self) -> bytes:
        """Wait for the key and hold it to the salt's probe; raises EngineError if wrong."""
        self._thread.join()
        if self._key is None:
            raise EngineError(f"malformed encryptionsalt {self.state!r}")
        try:
            if _open(self._key, self.state.split(":", 2)[2]) == _PROBE:
                return self._key
        except InvalidTag:
            pass
        raise EngineError("incorrect passphrase")

    def encrypt(self, plaintext: str) -> str:
        """Encrypt one value under a fresh nonce."""
        return _seal(self.verify(), plaintext)

    def decrypt(self, ciphertext: str) -> str:
        """Decrypt one value; raises EngineError where the ciphertext is not this stack's."""
        try:
            return _open(self.verify(), ciphertext)
        except (InvalidTag, ValueError) as error:
            raise EngineError("failed to decrypt a value: it is not of this stack") from error
