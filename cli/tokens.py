"""Mint a token for the hub's API from the stack's own seed.

    pulumi stack output hubSeed --show-secrets | python -m cli.tokens alice

The hub takes it as `Authorization: bearer TOKEN` and believes the name in it: URL-safe base64 of
a NaCl signature over the JSON `[name, unix time]` (0-hub: src/hub/threebot.py). It does not
expire; whoever holds it can do what that user can, until the seed is rotated.
"""

import argparse
import base64
import binascii
import json
import sys
import time
from typing import Final

from sync.contract.names import RefusedNameError, checked_plain

SEED_BYTES: Final = 32
_STDIN_LIMIT: Final = 1 << 20


class SeedError(ValueError):
    """What stands on stdin is no seed; `str()` names the remedy."""


def read_seed(text: str) -> bytes:
    """Return the 32 bytes of a seed: base64 on its own, or in the JSON of all stack outputs."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text.strip()
    if isinstance(value, dict):
        value = value.get("hubSeed")
    try:
        seed = base64.b64decode(str(value), validate=True)
    except binascii.Error:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise SeedError(
            "no hub seed on stdin; feed it with: pulumi stack output hubSeed --show-secrets"
        )
    return seed


def mint(seed: bytes, user: str, now_seconds: int) -> str:
    """Return the token of `user`, issued at now_seconds (unix time)."""
    from nacl.encoding import URLSafeBase64Encoder
    from nacl.signing import SigningKey

    payload = json.dumps([checked_plain(user, "user"), now_seconds]).encode()
    return str(SigningKey(seed).sign(payload, URLSafeBase64Encoder).decode())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line: the seed comes on stdin, the token goes to stdout."""
    parser = argparse.ArgumentParser(prog="python -m cli.tokens")
    parser.add_argument("user", help="name the hub shall believe, as its repository is called")
    user = parser.parse_args(arguments).user
    try:
        print(mint(read_seed(sys.stdin.read(_STDIN_LIMIT)), user, int(time.time())))
    except (SeedError, RefusedNameError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
