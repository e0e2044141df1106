"""Where a command works: the project, the backend and the chosen stack."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from tests.sandbox.engine.backend import Backend, StackRef, write_durably
from tests.sandbox.engine.errors import EngineError, StackNotFoundError
from tests.sandbox.engine.project import Project, pulumi_home

_STACK_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_QUALIFIED_PARTS = 3


def _credentials() -> Path:
    return pulumi_home() / "credentials.json"


def current_backend() -> str | None:
    """Tell the backend that `pulumi login` chose."""
    try:
        current = json.loads(_credentials().read_text(encoding="utf-8")).get("current")
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return str(current) if current else None


def remember_backend(url: str | None) -> None:
    """Keep the backend that `pulumi login` chose, or forget it."""
    write_durably(_credentials(), json.dumps({"current": url or ""}, indent=4))


class Workspace:
    """Finds project, backend and stack when they are first needed."""

    def __init__(self, directory: Path, stack: str | None) -> None:
        self._directory = directory.absolute()
        self._stack = stack
        self._project: Project | None = None
        self._backend: Backend | None = None

    @property
    def project(self) -> Project:
        """The project at or above the working directory."""
        if self._project is None:
            self._project = Project.find(self._directory)
        return self._project

    @property
    def backend(self) -> Backend:
        """The backend: environment, project file, then login."""
        if self._backend is None:
            url = os.environ.get("PULUMI_BACKEND_URL") or self._project_backend()
            url = url or current_backend()
            if not url:
                raise EngineError(
                    "no backend is chosen; set PULUMI_BACKEND_URL or run `pulumi login file://…`"
                )
            self._backend = Backend(url)
        return self._backend

    def _project_backend(self) -> str | None:
        try:
            return self.project.backend_url
        except EngineError:
            return None

    def parse(self, name: str) -> StackRef:
        """Read `stack`, `organization/stack` or `organization/project/stack`."""
        parts = name.split("/")
        if len(parts) > 1 and parts[0] != "organization":
            raise EngineError("organization name must be 'organization'")
        if not _STACK_NAME.fullmatch(parts[-1]):
            raise EngineError(
                "a stack name may only contain alphanumeric, hyphens, underscores, or periods, "
                f"and at most 100 of them; {parts[-1]!r} does not"
            )
        qualified = len(parts) == _QUALIFIED_PARTS
        return StackRef(parts[1] if qualified else self.project.name, parts[-1])

    def stack(self) -> StackRef:
        """Tell the stack that the command is about; raises where it is not there."""
        name = self._stack or os.environ.get("PULUMI_STACK")
        name = name or self.project.selected(self.backend.url)
        if not name:
            raise StackNotFoundError(
                "no stack selected; please use `pulumi stack select` or `pulumi stack init` to "
                "choose one"
            )
        ref = self.parse(name)
        if not self.backend.exists(ref):
            raise StackNotFoundError(f"no stack named '{name}' found")
        return ref

    def select(self, ref: StackRef | None) -> None:
        """Remember the stack for later commands."""
        self.project.select(self.backend.url, ref.qualified if ref else None)
