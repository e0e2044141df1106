"""The project file and the stacks' config files.

`Pulumi.yaml` and `Pulumi.<stack>.yaml` as sdk/go/common/workspace reads them, with the order of
their keys kept on writing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from tests.sandbox.engine.backend import write_durably
from tests.sandbox.engine.errors import EngineError
from tests.sandbox.engine.passphrase import Crypter, passphrase_from_environment
from tests.sandbox.engine.paths import parse_path

_PROJECT_FILES = ("Pulumi.yaml", "Pulumi.yml")


def pulumi_home() -> Path:
    """Tell the directory of the CLI's own files."""
    return Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise EngineError(f"could not parse {path}: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise EngineError(f"could not parse {path}: expected an object")
    return document


@dataclass(frozen=True)
class Project:
    """A project file."""

    file: Path
    document: dict[str, Any]

    @classmethod
    def find(cls, start: Path) -> Project:
        """Find the project at `start` or above; raises EngineError where there is none."""
        for directory in (start, *start.parents):
            for name in _PROJECT_FILES:
                if (directory / name).is_file():
                    return cls(directory / name, _load_yaml(directory / name))
        raise EngineError(
            f"no Pulumi.yaml project file found (searching upwards from {start}). If you have not "
            "created a project yet, use `pulumi new` to do so"
        )

    @property
    def directory(self) -> Path:
        """Where the project file is."""
        return self.file.parent

    @property
    def name(self) -> str:
        """The project's name."""
        name = self.document.get("name")
        if not isinstance(name, str):
            raise EngineError(f"could not load project {self.file}: project is missing a 'name'")
        return name

    @property
    def runtime_options(self) -> dict[str, Any]:
        """The options of the runtime; raises EngineError unless the runtime is python."""
        runtime = self.document.get("runtime")
        name = runtime.get("name") if isinstance(runtime, dict) else runtime
        if name != "python":
            raise EngineError(f"runtime {name!r} is not known here; this engine knows python only")
        options = runtime.get("options") if isinstance(runtime, dict) else None
        return options or {}

    @property
    def backend_url(self) -> str | None:
        """The backend that the project names."""
        url = (self.document.get("backend") or {}).get("url")
        return str(url) if url else None

    @property
    def program(self) -> Path:
        """The directory or file of the program."""
        main = self.document.get("main")
        return (self.directory / main).resolve() if main else self.directory

    def stack_file(self, stack: str) -> Path:
        """Tell where a stack's config file is."""
        where = self.directory / str(self.document.get("stackConfigDir", "."))
        return where / f"Pulumi.{stack}.yaml"

    def _workspace_file(self) -> Path:
        digest = hashlib.sha1(str(self.file).encode(), usedforsecurity=False).hexdigest()
        return pulumi_home() / "workspaces" / f"{self.name}-{digest}-workspace.json"

    def selected(self, backend_url: str) -> str | None:
        """Tell the selected stack's name."""
        try:
            settings = json.loads(self._workspace_file().read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        chosen = (settings.get("stacks") or {}).get(backend_url) or settings.get("stack")
        return str(chosen).rsplit("/", 1)[-1] if chosen else None

    def select(self, backend_url: str, qualified: str | None) -> None:
        """Remember the selected stack, or forget it."""
        path = self._workspace_file()
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            settings = {}
        stacks = settings.setdefault("stacks", {})
        stacks.pop(backend_url, None)
        if qualified is not None:
            stacks[backend_url] = qualified
        write_durably(path, json.dumps(settings, indent=4))


def _stringify(value: Any) -> str:
    """Write a config value as a program's environment has it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return "" if value is None else str(value)


def _is_secure(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("secure"), str)


def has_secure(value: Any) -> bool:
    """Whether a config value holds an encrypted one."""
    if _is_secure(value):
        return True
    if isinstance(value, dict):
        return any(has_secure(element) for element in value.values())
    return isinstance(value, list) and any(has_secure(element) for element in value)


def _decrypt(value: Any, crypter: Crypter | None) -> Any:
    if _is_secure(value):
        return "[secret]" if crypter is None else crypter.decrypt(value["secure"])
    if isinstance(value, dict):
        return {key: _decrypt(element, crypter) for key, element in value.items()}
    if isinstance(value, list):
        return [_decrypt(element, crypter) for element in value]
    return value


def _adjusted(raw: str) -> Any:
    """Read a `--path` value as the real CLI does: booleans and integers lose their quotes."""
    if raw in ("true", "false"):
        return raw == "true"
    if re.fullmatch(r"-?(0|[1-9]\d*)", raw):
        return int(raw)
    return raw


@dataclass
class StackConfig:
    """A stack's config file."""

    file: Path
    project: str
    document: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, project: Project, stack: str) -> StackConfig:
        """Read the file; a missing one is empty."""
        path = project.stack_file(stack)
        return cls(path, project.name, _load_yaml(path) if path.exists() else {})

    def save(self) -> None:
        """Write the file."""
        text = yaml.safe_dump(
            self.document, sort_keys=False, default_flow_style=False, allow_unicode=True, width=4096
        )
        write_durably(self.file, text)

    @property
    def values(self) -> dict[str, Any]:
        """The config as the file has it; keys always have a namespace."""
        found = self.document.get("config") or {}
        return {self.key(name): value for name, value in found.items()}

    def key(self, name: str) -> str:
        """Complete a key with the project's name."""
        return name if ":" in name else f"{self.project}:{name}"

    def crypter(self) -> Crypter:
        """Make the stack's crypter, adding a salt to the file at the first use."""
        phrase = passphrase_from_environment()
        if salt := self.document.get("encryptionsalt"):
            return Crypter(phrase, str(salt))
        crypter = Crypter.create(phrase)
        self.document = {"encryptionsalt": crypter.state, **self.document}
        self.save()
        return crypter

    def environment(self, crypter: Crypter | None) -> tuple[dict[str, str], list[str]]:
        """Give the decrypted config as strings, and the keys that hold secrets."""
        values = {key: _stringify(_decrypt(v, crypter)) for key, v in self.values.items()}
        return values, sorted(key for key, v in self.values.items() if has_secure(v))

    def set(self, name: str, raw: str, *, path: bool, crypter: Crypter | None) -> None:
        """Set a value; with a crypter it is a secret."""
        config = self.document.get("config") or {}
        self.document["config"] = config
        value: Any = raw if crypter is None else {"secure": crypter.encrypt(raw)}
        if not path:
            config[self._existing(config, self.key(name))] = value
            return
        steps = self._steps(name)
        if crypter is None and len(steps) > 1:
            value = _adjusted(raw)
        _assign(
            config, [self._existing(config, self.key(cast("str", steps[0]))), *steps[1:]], value
        )

    def remove(self, name: str, *, path: bool) -> bool:
        """Remove a value; tell whether it was there."""
        config = self.document.get("config") or {}
        steps = self._steps(name) if path else [name]
        steps = [self._existing(config, self.key(cast("str", steps[0]))), *steps[1:]]
        target: Any = config
        for step in steps[:-1]:
            target = _child(target, step)
        if _child(target, steps[-1]) is None:
            return False
        del target[steps[-1]]
        return True

    def _steps(self, name: str) -> list[str | int]:
        namespace, separator, rest = name.rpartition(":")
        steps = list(parse_path(rest))
        if not steps or not isinstance(steps[0], str):
            raise EngineError(f"invalid configuration key {name!r}")
        return [namespace + separator + steps[0], *steps[1:]]

    def _existing(self, config: dict[str, Any], key: str) -> str:
        short = key.removeprefix(f"{self.project}:")
        return short if short in config and key not in config else key


def _child(container: Any, step: str | int) -> Any:
    if isinstance(container, dict):
        return container.get(step)
    if isinstance(container, list) and isinstance(step, int) and step < len(container):
        return container[step]
    return None


def _assign(container: Any, steps: list[str | int], value: Any) -> None:
    for step, following in itertools.pairwise(steps):
        if _child(container, step) is None:
            _put(container, step, [] if isinstance(following, int) else {})
        container = _child(container, step)
    _put(container, steps[-1], value)


def _put(container: Any, step: str | int, value: Any) -> None:
    if isinstance(container, list) and isinstance(step, int):
        if step > len(container):
            raise EngineError(f"array index {step} out of range")
        container[step : step + 1] = [value]
    elif isinstance(container, dict):
        container[str(step)] = value
    else:
        raise EngineError(f"{step!r}: expected an object or an array")
