"""What the engine does to property bags: floats for numbers, unknowns in previews."""

import pytest
from pulumi.output import UNKNOWN
from pydantic import ValidationError

from sync.providers.base import Model, Whole
from sync.providers.preflight.provider import PreflightProvider
from sync.providers.stack_secrets import StackSecretProvider
from tests.providers.conftest import ENGINE_COMPARES

HOST = {"dockerHost": "unix:///x", "sshKeyPath": "", "knownHostsPath": "", "helperImage": ""}


class Number(Model):
    value: Whole


def test_a_number_that_became_a_float_is_the_integer_again() -> None:
    read = Number.model_validate({"value": 45.0})
    assert read.value == 45
    assert isinstance(read.value, int)


@pytest.mark.parametrize("wrong", [45.5, "45", True, None])
def test_a_number_that_is_not_whole_is_refused(wrong: object) -> None:
    with pytest.raises(ValidationError):
        Number.model_validate({"value": wrong})


def test_an_error_about_an_input_does_not_show_it() -> None:
    with pytest.raises(ValidationError) as refused:
        Number.model_validate({"value": "a secret"})
    assert "a secret" not in str(refused.value)


def test_an_unknown_input_counts_as_changed_and_a_float_does_not() -> None:
    provider = PreflightProvider()
    port = {"address": "127.0.0.1", "port": 80}
    inputs = {"host": HOST, "root": "/srv", "ports": [port], "ownContainers": ["edge"]}
    olds = {**inputs, "ports": [{**port, "port": 80.0}], "findings": []}
    assert provider.diff("id", olds, inputs).changes is False
    for changed in (
        {"ownContainers": UNKNOWN},
        {"ownContainers": [UNKNOWN]},
        {"ports": [{**port, "address": UNKNOWN}]},
    ):
        assert provider.diff("id", olds, {**inputs, **changed}).changes is ENGINE_COMPARES


def test_outputs_repeat_the_inputs_as_they_were_given() -> None:
    inputs = {"stack": "test", "kind": "hubSeed", "rotation": 1.0, "__provider": "pickled"}
    outs = StackSecretProvider().create(inputs).outs
    assert outs is not None
    assert {key: outs[key] for key in ("stack", "kind", "rotation")} == {
        "stack": "test",
        "kind": "hubSeed",
        "rotation": 1.0,
    }
    assert set(outs) == {"stack", "kind", "rotation", "value"}
