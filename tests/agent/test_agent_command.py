"""The agent's command line, which names its remedies."""

from pathlib import Path

import pytest

from sync.agent.__main__ import main


def test_command_line_refuses_a_part_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["verify", "users", "--part", "3/2"])
    assert "N/M" in capsys.readouterr().err


def test_command_line_without_a_spec_names_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "users", "--spec-dir", str(tmp_path)]) == 1
    assert "pulumi up" in capsys.readouterr().err
