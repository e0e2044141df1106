"""A stack's own secrets: generated once, kept, rotated one by one."""

import base64
import secrets
from collections.abc import Callable, Mapping
from typing import Final

from sync.providers.base import Model, Provider, Whole

_TOKEN_BYTES: Final = 32


def _token() -> str:
    return secrets.token_urlsafe(_TOKEN_BYTES)


def _base64() -> str:
    return base64.b64encode(secrets.token_bytes(_TOKEN_BYTES)).decode()


# What a stack generates: the zdb admin password (shell and command-line safe), the hub's x25519
# key (base64) and 32-byte seed (base64), the bootstrap API token, the hub's guest token.
KINDS: Final[Mapping[str, Callable[[], str]]] = {
    "zdbAdmin": _token,
    "hubKey": _base64,  # RFC 7748, 6.1: 32 random bytes
    "hubSeed": _base64,
    "bootstrapToken": _token,
    # 0-hub looks for the guest among tokens with a dot only (src/hub/security.py, apicall).
    "guestToken": lambda: f"guest.{_token()}",
}


class SecretInputs(Model):
    """See resources.StackSecret."""

    stack: str
    kind: str
    rotation: Whole


class SecretOutputs(Model):
    """The secret, and the counter that it was generated for."""

    rotation: Whole | None = None
    value: str | None = None


class StackSecretProvider(Provider[SecretInputs, SecretOutputs]):
    """Generates one secret; a changed `rotation` generates it anew, nothing else does."""

    inputs_type = SecretInputs
    outputs_type = SecretOutputs
    id_form = "{0.stack}/{0.kind}"
    replaced_by = "kind"

    def apply(self, inputs: SecretInputs, before: SecretOutputs | None) -> SecretOutputs:
        """Generate a secret, unless there is one whose counter and form are right."""
        value = before.value if before and before.rotation == inputs.rotation else None
        if not value or not _usable(inputs.kind, value):
            value = KINDS[inputs.kind]()
        return SecretOutputs(rotation=inputs.rotation, value=value)

    def repairs(self, before: SecretOutputs, inputs: SecretInputs | None) -> list[str]:
        """Generate one of a wrong form anew."""
        if inputs is None or _usable(inputs.kind, before.value or ""):
            return []
        return [f"{inputs.kind} has not the form that its service takes; pulumi up generates it"]


def _usable(kind: str, value: str) -> bool:
    """Whether a value has the form that its service takes; early guest tokens had no dot."""
    return kind != "guestToken" or "." in value
