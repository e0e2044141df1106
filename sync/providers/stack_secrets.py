"""A stack's own secrets: generated once, kept, rotated one by one."""

import base64
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from pulumi.dynamic import CreateResult, DiffResult, ReadResult, ResourceProvider, UpdateResult

from sync.providers.base import decided

_TOKEN_BYTES: Final = 32


def _token() -> str:
    return secrets.token_urlsafe(_TOKEN_BYTES)


def _guest_token() -> str:
    # 0-hub looks for the guest among tokens with a dot only (src/hub/security.py, apicall).
    return f"guest.{_token()}"


def _hub_seed() -> str:
    return base64.b64encode(secrets.token_bytes(_TOKEN_BYTES)).decode()


def _hub_private_key() -> str:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()).decode()


# What a stack generates: the zdb admin password (shell and command-line safe), the hub's x25519
# key (base64) and 32-byte seed (base64), the bootstrap API token, the hub's guest token.
KINDS: Final[Mapping[str, Callable[[], str]]] = {
    "zdbAdmin": _token,
    "hubKey": _hub_private_key,
    "hubSeed": _hub_seed,
    "bootstrapToken": _token,
    "guestToken": _guest_token,
}


def _usable(kind: str, value: str) -> bool:
    """Tell whether a value has the form that its service takes; early guest tokens had no dot."""
    return kind != "guestToken" or "." in value


def _record(props: Mapping[str, Any], value: str) -> dict[str, Any]:
    return {
        "stack": props["stack"],
        "kind": props["kind"],
        "rotation": props["rotation"],
        "value": value,
    }


class StackSecretProvider(ResourceProvider):
    """Generates one secret; a changed `rotation` generates it anew, nothing else does."""

    serialize_as_secret_always = False

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Generate the secret."""
        value = KINDS[props["kind"]]()
        return CreateResult(f"{props['stack']}/{props['kind']}", _record(props, value))

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Tell a change of the counter (or of the stack's name, which keeps the secret)."""
        changed = [key for key in ("stack", "rotation") if _olds.get(key) != _news.get(key)]
        replaced = ["kind"] if _olds.get("kind") != _news.get("kind") else []
        unusable = not _usable(str(_olds.get("kind")), str(_olds.get("value")))
        return decided(_olds, changed=bool(changed or replaced), repair=unusable, replaces=replaced)

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Generate anew if the counter changed or the form is wrong; return the whole record."""
        kept = _olds.get("rotation") == _news["rotation"] and _olds.get("value")
        if kept and not _usable(_news["kind"], kept):
            kept = None
        return UpdateResult(_record(_news, kept or KINDS[_news["kind"]]()))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Return what the state holds: there is no other copy."""
        return ReadResult(id_, _record(props, props["value"]))
