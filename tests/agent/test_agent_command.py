"""The agent's command line, which names its remedies."""

import io
import sys
from pathlib import Path

import pytest

from sync.agent import __main__ as command
from sync.agent.__main__ import main
from sync.agent.master.client import HttpError
from sync.agent.zdb.errors import ZdbReplyError


def test_command_line_refuses_a_part_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["verify", "users", "--part", "3/2"])
    assert "N/M" in capsys.readouterr().err


def test_command_line_without_a_spec_names_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "users", "--spec-dir", str(tmp_path)]) == 1
    assert "pulumi up" in capsys.readouterr().err


@pytest.mark.parametrize(
    "said",
    [
        "\x1b[2J\x1b]0;evil\x07",
        "\x9b31m",
        "a\rb\x08\x7f",
        "\u202e\u2066\u200b",
        "\ud800\udfff",
        "x" * 100_000,
        "line\n" * 100_000,
    ],
)
@pytest.mark.parametrize("kind", [HttpError, ZdbReplyError, OSError])
def test_what_a_master_said_is_no_command_to_the_terminal(
    kind: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*_: object) -> None:
        raise HttpError(said, retry=False) if kind is HttpError else kind(said)

    errors = io.StringIO()
    monkeypatch.setattr(command, "load_spec", fails)
    monkeypatch.setattr(sys, "stderr", errors)
    assert main(["verify", "users", "--spec-dir", str(tmp_path)]) == 1
    text = errors.getvalue()
    assert text
    assert text.replace("\n", "").isprintable()
    assert len(text) < 100_000
