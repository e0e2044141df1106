"""The `pulumi` package's own resources and functions: stack references and getResource."""

# ruff: noqa: ARG002 - the signatures are those of every provider

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.sandbox.engine.provider import Diff, Provider, ProviderError, ReadResult, Subject
from tests.sandbox.engine.state import Resource
from tests.sandbox.engine.values import Properties, contains_secret

STACK_REFERENCE = "pulumi:pulumi:StackReference"


class BuiltinProvider(Provider):
    """The provider of the package `pulumi`, inside the engine (deploy/builtins.go)."""

    def __init__(
        self,
        stack_outputs: Callable[[str], Properties],
        find: Callable[[str], Resource | None],
    ) -> None:
        self._stack_outputs = stack_outputs
        self._find = find
        self.known = True
        self._refusal = None

    def check_config(
        self, subject: Subject, olds: Properties, news: Properties
    ) -> tuple[Properties, list[tuple[str, str]]]:
        """Take the configuration as it is."""
        return dict(news), []

    def diff_config(
        self, subject: Subject, old_inputs: Properties, old_outputs: Properties, news: Properties
    ) -> Diff:
        """Nothing of the configuration matters."""
        return Diff(False)

    def configure(self, subject: Subject, package: str, inputs: Properties) -> None:
        """Nothing is to be configured."""

    def read(self, subject: Subject, inputs: Properties, outputs: Properties) -> ReadResult:
        """Read another stack's outputs."""
        if subject.type != STACK_REFERENCE:
            raise ProviderError(f"unrecognized resource type '{subject.type}'")
        name = str(inputs["name"])
        found = self._stack_outputs(name)
        secret = sorted(key for key, value in found.items() if contains_secret(value))
        state = {"name": name, "outputs": found, "secretOutputNames": secret}
        return ReadResult(subject.id, state, inputs, [])

    def diff(
        self,
        subject: Subject,
        old: tuple[Properties, Properties],
        news: Properties,
        *,
        ignore_changes: list[str],
    ) -> Diff:
        """Replace a reference that names another stack."""
        changed = old[0].get("name") != news.get("name")
        return Diff(changed, ["name"] if changed else [])

    def invoke(self, token: str, args: Properties, *, preview: bool) -> tuple[Properties, Any]:
        """Look up a resource of this update."""
        if token == "pulumi:pulumi:getResource":
            resource = self._find(str(args["urn"]))
            if resource is None:
                raise ProviderError(f"unknown resource {args['urn']}")
            found = {
                "urn": resource.urn,
                "id": resource.id,
                "provider": resource.provider,
                "state": resource.outputs,
            }
            return found, []
        raise ProviderError(f"unrecognized function name: '{token}'")

    def cancel(self) -> None:
        """Nothing is under way here."""
