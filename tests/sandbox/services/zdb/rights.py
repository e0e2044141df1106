"""Who may do what: sessions, passwords, challenges, namespace settings."""

import hashlib
from dataclasses import dataclass
from typing import Final

from tests.sandbox.services.zdb.namespace import Namespace
from tests.sandbox.services.zdb.resp import atoll
from tests.sandbox.services.zdb.store import DEFAULT_NAMESPACE, Store

_SHA1_HEX: Final = 40
_SELECT_PASSWORD_MAX_BYTES: Final = 255


@dataclass
class Session:
    """What the server remembers of one client."""

    namespace: Namespace
    admin: bool
    writable: bool
    nonce: str | None = None
    waiting_for: str | None = None
    waiting_until: float = 0.0
    closing: bool = False
    executed: str | None = None  # the last command, for those who wait for one


class RefusedError(Exception):
    """A command that is answered with an error; str() is the text without its minus sign."""


def session(store: Store) -> Session:
    """Begin with a client that has just connected."""
    settings = store.settings
    return Session(store.default, settings.admin is None, not settings.protect)


def prefix(word: bytes, full: str) -> bool:
    """Tell whether a word stands for a longer one, as zdbd compares them."""
    return full.encode().startswith(word.upper())


def answer(nonce: str, password: str) -> bytes:
    """Return the right answer to a challenge."""
    return hashlib.sha1(f"{nonce}:{password}".encode(), usedforsecurity=False).hexdigest().encode()


def challenged(client: Session, given: bytes) -> str:
    """Return the challenge that a client answers; RefusedError when there is none."""
    if client.nonce is None:
        raise RefusedError("No CHALLENGE requested, secure authentication not available")
    if len(given) != _SHA1_HEX:
        raise RefusedError("Invalid hash length")
    return client.nonce


def select_rights(client: Session, namespace: Namespace, credentials: list[bytes]) -> bool:
    """Tell whether the client may write there; RefusedError when it may not even read."""
    if namespace.password is None:
        return True
    if not credentials:
        if not namespace.public:
            raise RefusedError("Namespace protected and private")
        return False
    if len(credentials) == 1:
        if len(credentials[0]) > _SELECT_PASSWORD_MAX_BYTES:
            raise RefusedError("Password too long")
        if credentials[0] != namespace.password.encode():
            raise RefusedError("Access denied")
        return True
    if len(credentials) > 2:
        raise RefusedError("Too many arguments")
    if not prefix(credentials[0], "SECURE"):
        raise RefusedError("Only SECURE extra method supported")
    nonce = challenged(client, credentials[1])
    if credentials[1] != answer(nonce, namespace.password):
        raise RefusedError("Access denied")
    return True


def configure(namespace: Namespace, name: str, value: str) -> None:
    """Change a setting of a namespace (NSSET)."""
    if name == "mode":
        raise RefusedError("This server instance is configured to use a single runtime mode")
    if name in {"lock", "freeze"}:
        namespace.locked = {"lock": 1, "freeze": 2}[name] if value[0] == "1" else 0
        return
    if namespace.name == DEFAULT_NAMESPACE:
        raise RefusedError("Cannot update default namespace")
    if name == "maxsize":
        namespace.maxsize_bytes = atoll(value.encode()) & 0xFFFFFFFFFFFFFFFF
    elif name == "password":
        namespace.password = None if value == "*" else value
    elif name == "public":
        namespace.public = value[0] == "1"
    elif name == "worm":
        namespace.worm = value[0] == "1"
    else:
        raise RefusedError("Invalid property")
