"""A plugin that dies at its start is told of, and never waited for."""

import os
import stat
from pathlib import Path

import pytest

from tests.sandbox.engine.errors import EngineError
from tests.sandbox.engine.plugins import PluginHost, PluginSettings, default_python


def _host(tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> PluginHost:
    plugin = tmp_path / "pulumi-resource-frail"
    plugin.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    settings = PluginSettings("127.0.0.1:1", "p", tmp_path, tmp_path, default_python(), "{}", {})
    return PluginHost(settings, lambda _: None)


def test_a_plugin_that_prints_no_port_is_refused_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = _host(tmp_path, "echo 'no licence'; exit 3", monkeypatch)
    with pytest.raises(EngineError, match="no licence"):
        host.load("frail")
    host.close()


def test_a_plugin_that_dies_after_its_port_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = _host(tmp_path, "echo 9; exit 0", monkeypatch)
    with pytest.raises(EngineError, match="died or does not answer"):
        host.load("frail")
    host.close()


def test_a_plugin_that_is_not_there_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = _host(tmp_path, "exit 0", monkeypatch)
    with pytest.raises(EngineError, match="pulumi-resource-absent' found on PATH; install it"):
        host.load("absent")
