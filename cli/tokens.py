"""`gridhub token`: mint a token for the hub's API from the stack's own seed.

The hub takes it as `Authorization: bearer TOKEN` and believes the name in it: URL-safe base64 of
a NaCl signature over the JSON `[name, unix time]` (0-hub: src/hub/threebot.py). It does not
expire; whoever holds it can do what that user can, until the seed is rotated.
"""

import base64
import json
from typing import Final

import click
from nacl.encoding import URLSafeBase64Encoder
from nacl.signing import SigningKey

from sync.contract.names import checked_plain

_SEED_BYTES: Final = 32


def read_seed(text: str) -> bytes:
    """Return the 32 bytes of a seed: base64 on its own, or in the JSON of all stack outputs.

    Raises click.ClickException, which names the remedy.
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = text.strip()
    if isinstance(value, dict):
        value = value.get("hubSeed")
    try:
        seed = base64.b64decode(str(value), validate=True)
    except ValueError:
        seed = b""
    if len(seed) != _SEED_BYTES:
        raise click.ClickException(
            "no hub seed on stdin; feed it with: pulumi stack output hubSeed --show-secrets"
        )
    return seed


def mint(seed: bytes, user: str, now_seconds: int) -> str:
    """Return the token of `user`, issued at now_seconds (unix time)."""
    payload = json.dumps([checked_plain(user, "user"), now_seconds]).encode()
    return str(SigningKey(seed).sign(payload, URLSafeBase64Encoder).decode())
