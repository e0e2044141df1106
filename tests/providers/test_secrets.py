"""Secrets are generated once, kept over every update, and rotated one by one."""

import base64
import re
from typing import Any

import pytest

from sync.providers.stack_secrets import KINDS, StackSecretProvider
from tests.providers.conftest import ENGINE_COMPARES

PROVIDER = StackSecretProvider()


def _inputs(kind: str, rotation: float = 0.0) -> dict[str, Any]:
    return {"stack": "sandbox", "kind": kind, "rotation": rotation}


@pytest.mark.parametrize("kind", KINDS)
def test_every_secret_is_new_and_has_256_bits(kind: str) -> None:
    one, two = (KINDS[kind]().removeprefix("guest.") for _ in range(2))
    assert one != two
    assert len(base64.urlsafe_b64decode(one.replace("+", "-").replace("/", "_") + "==")) == 32


@pytest.mark.parametrize("kind", ["zdbAdmin", "bootstrapToken", "guestToken"])
def test_passwords_and_tokens_pass_a_shell_and_a_config_file(kind: str) -> None:
    for _ in range(50):
        assert re.fullmatch(r"(guest\.)?[A-Za-z0-9_-]+", KINDS[kind]())


def test_the_hub_key_is_an_x25519_key() -> None:
    from nacl.encoding import Base64Encoder
    from nacl.public import PrivateKey

    key = PrivateKey(KINDS["hubKey"]().encode(), Base64Encoder)
    assert len(bytes(key.public_key)) == 32


def test_an_update_keeps_the_secret_until_its_counter_changes() -> None:
    created = PROVIDER.create(_inputs("zdbAdmin"))
    assert created.outs is not None
    value = created.outs["value"]
    kept = PROVIDER.update(created.id, created.outs, {**_inputs("zdbAdmin"), "stack": "renamed"})
    assert kept.outs is not None
    assert kept.outs["value"] == value
    rotated = PROVIDER.update(created.id, kept.outs, _inputs("zdbAdmin", 1.0))
    assert rotated.outs is not None
    assert rotated.outs["value"] != value


def test_a_guest_token_without_the_dot_that_the_hub_looks_for_is_made_anew() -> None:
    made = PROVIDER.create(_inputs("guestToken"))
    assert made.outs is not None
    assert "." in made.outs["value"]
    assert not PROVIDER.diff(made.id, made.outs, _inputs("guestToken")).changes
    early = {**made.outs, "value": "no-dot"}
    assert PROVIDER.diff(made.id, early, _inputs("guestToken")).changes
    renewed = PROVIDER.update(made.id, early, _inputs("guestToken"))
    assert renewed.outs is not None
    assert "." in renewed.outs["value"]


def test_an_unchanged_secret_previews_as_unchanged_and_a_raised_counter_as_an_update() -> None:
    created = PROVIDER.create(_inputs("hubSeed"))
    assert created.outs is not None
    assert PROVIDER.diff(created.id, created.outs, _inputs("hubSeed")).changes is False
    rotated = PROVIDER.diff(created.id, created.outs, _inputs("hubSeed", 1.0))
    assert (rotated.changes, rotated.replaces) == (ENGINE_COMPARES, [])


def test_a_refresh_keeps_the_only_copy() -> None:
    created = PROVIDER.create(_inputs("hubSeed"))
    assert created.outs is not None
    assert PROVIDER.read(created.id, created.outs).outs == created.outs
