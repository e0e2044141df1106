"""A token minted from the stack's seed is one that the hub believes."""

import base64
import json

import click
import pytest
from nacl.encoding import URLSafeBase64Encoder
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey

from cli import tokens
from sync.contract.names import RefusedNameError
from sync.providers.stack_secrets import KINDS
from tests.cli.conftest import run

SEED = bytes(range(32))
ENCODED = base64.b64encode(SEED).decode()


def test_the_hub_verifies_it_and_reads_name_and_time() -> None:
    minted = tokens.mint(SEED, "alice", 1_700_000_000)
    payload = SigningKey(SEED).verify_key.verify(minted.encode(), None, URLSafeBase64Encoder)
    assert json.loads(payload) == ["alice", 1_700_000_000]


def test_another_seed_makes_it_invalid() -> None:
    minted = tokens.mint(SEED, "alice", 1_700_000_000)
    other = SigningKey(bytes(32)).verify_key
    with pytest.raises(BadSignatureError):
        other.verify(minted.encode(), None, URLSafeBase64Encoder)


@pytest.mark.parametrize("text", [ENCODED, f"{ENCODED}\n", json.dumps({"hubSeed": ENCODED})])
def test_the_seed_is_read_as_pulumi_prints_it(text: str) -> None:
    assert tokens.read_seed(text) == SEED


@pytest.mark.parametrize("text", ["", "é", "[secret]", "AAAA", "{}", json.dumps({"hubSeed": None})])
def test_what_is_no_seed_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(click.ClickException, match="--show-secrets"):
        tokens.read_seed(text)


def test_a_name_that_is_a_path_is_refused() -> None:
    with pytest.raises(RefusedNameError):
        tokens.mint(SEED, "../alice", 0)


def test_a_generated_seed_is_accepted() -> None:
    assert len(tokens.read_seed(KINDS["hubSeed"]())) == 32


def test_command_line() -> None:
    result = run("token", "alice", stdin=ENCODED)
    assert result.exit_code == 0
    minted = result.stdout.strip()
    SigningKey(SEED).verify_key.verify(minted.encode(), None, URLSafeBase64Encoder)
    refused = run("token", "alice", stdin="[secret]")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: no hub seed on stdin")
