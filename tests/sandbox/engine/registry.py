"""Provider resources: the plugins behind `pulumi:providers:*` resources.

A provider resource has the life of any other; its check loads and checks the plugin, its
create and update configure it (pkg/resource/deploy/providers/registry.go).
"""

from __future__ import annotations

import threading
import uuid

from tests.sandbox.engine.plugins import PluginHost
from tests.sandbox.engine.provider import Diff, Provider, Subject
from tests.sandbox.engine.state import Resource, urn_name, urn_type
from tests.sandbox.engine.values import UNKNOWN_WIRE, Properties, deep_equal

_INTERNAL = "__internal"
_PREFIX = "pulumi:providers:"


def _filtered(inputs: Properties) -> Properties:
    return {key: value for key, value in inputs.items() if key != _INTERNAL}


def package_of(kind: str) -> str:
    """Tell the package of a provider's type or of a resource's type."""
    return kind.removeprefix(_PREFIX) if kind.startswith(_PREFIX) else kind.split(":", 1)[0]


def _subject(urn: str, identity: str = "") -> Subject:
    return Subject(urn, urn_name(urn), urn_type(urn), identity)


class Registry:
    """Configured plugins by provider reference, and those that were only checked."""

    def __init__(self, host: PluginHost, *, preview: bool) -> None:
        self._host = host
        self._preview = preview
        self._configured: dict[str, Provider] = {}
        self._checked: dict[str, Provider] = {}
        self._lock = threading.RLock()
        # the provider of the package `pulumi`, which has no plugin
        self.builtin: Provider | None = None

    def _load(self, package: str) -> Provider:
        if package == "pulumi" and self.builtin is not None:
            return self.builtin
        return self._host.load(package)

    def get(self, reference: str) -> Provider | None:
        """Find a configured provider by its reference."""
        with self._lock:
            return self._configured.get(reference)

    def check(
        self, urn: str, olds: Properties, news: Properties
    ) -> tuple[Properties, list[tuple[str, str]]]:
        """Load the plugin and let it check the provider's inputs."""
        provider = self._load(package_of(urn_type(urn)))
        inputs, failures = provider.check_config(_subject(urn), _filtered(olds), _filtered(news))
        if failures:
            return inputs, failures
        self._checked[urn] = provider
        for key in ("version", _INTERNAL):
            if key in news and key not in inputs:
                inputs[key] = news[key]
        return inputs, []

    def diff(self, old: Resource, news: Properties) -> Diff:
        """Compare a provider's old state with its new inputs."""
        provider = self._checked.get(old.urn) or self._configured.get(f"{old.urn}::{old.id}")
        assert provider is not None, f"{old.urn} was not checked"
        subject, filtered = _subject(old.urn, old.id), _filtered(news)
        diff = provider.diff_config(subject, _filtered(old.inputs), old.outputs, filtered)
        if diff.changes is None:
            changed = not deep_equal(old.outputs, filtered)
            return Diff(changed, diff.replaces, diff.changed, diff.detailed)
        return diff

    def _configure(self, urn: str, identity: str, inputs: Properties) -> None:
        provider = self._checked.pop(urn, None) or self._load(package_of(urn_type(urn)))
        provider.configure(_subject(urn, identity), package_of(urn_type(urn)), _filtered(inputs))
        with self._lock:
            self._configured[f"{urn}::{identity}"] = provider

    def create(self, urn: str, inputs: Properties) -> tuple[str, Properties]:
        """Configure a new provider: (id, outputs)."""
        identity = UNKNOWN_WIRE if self._preview else str(uuid.uuid4())
        self._configure(urn, identity, inputs)
        return identity, _filtered(inputs)

    def update(self, urn: str, identity: str, inputs: Properties) -> Properties:
        """Configure a changed provider: the outputs."""
        self._configure(urn, identity, inputs)
        return _filtered(inputs)

    def same(self, resource: Resource) -> None:
        """Configure a provider from its state, unless that has happened."""
        with self._lock:
            if f"{resource.urn}::{resource.id}" not in self._configured:
                self._configure(resource.urn, resource.id, resource.inputs)
