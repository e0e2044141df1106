"""The hub's bearer tokens (0-hub, src/hub/threebot.py).

A token is the URL-safe base64 of a NaCl signature, by the key of `threebot-seed`, over the JSON
`[username, unix time]`. Needs PyNaCl (Debian: python3-nacl).
"""

import base64
import binascii
import json
import time
from typing import Any


class TokenError(ValueError):
    """A token that this hub did not sign."""


def mint(seed: bytes, username: str) -> str:
    """Sign a token for a user."""
    from nacl.signing import SigningKey

    payload = json.dumps([username, int(time.time())]).encode()
    return base64.urlsafe_b64encode(bytes(SigningKey(seed).sign(payload))).decode()


def username(seed: bytes, token: str) -> Any:
    """Return whose token it is, which may be any JSON value. Nothing expires.

    Raises TokenError for what this hub did not sign; what it signed and is no list, ValueError.
    """
    from nacl.exceptions import CryptoError
    from nacl.signing import SigningKey

    try:
        signed = base64.urlsafe_b64decode(token)
        payload = SigningKey(seed).verify_key.verify(signed)
    except (CryptoError, binascii.Error, ValueError) as error:
        raise TokenError("invalid signature") from error
    return json.loads(payload)[0]
