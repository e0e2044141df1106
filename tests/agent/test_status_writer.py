"""The status record on disk: whole at every moment, and bounded."""

from pathlib import Path

import pytest

from sync.agent.status_writer import name_list, read_status
from tests.agent.mirrors import make_directories, make_status


def test_record_file_is_whole_at_every_moment(tmp_path: Path) -> None:
    directories = make_directories(tmp_path)
    status = make_status("kernels", directories, "s")
    status.flush()
    try:
        for number in range(300):
            status.update(retries=number)
            status.flush()
            assert read_status(directories.state / "status.json") is not None
    finally:
        status.close()
    record = read_status(directories.state / "status.json")
    assert record is not None
    assert record.retries == 299
    assert [path.name for path in directories.state.iterdir()] == ["status.json"]


def test_record_keeps_the_last_errors_and_the_first_names(tmp_path: Path) -> None:
    status = make_status("kernels", make_directories(tmp_path), "s")
    for number in range(25):
        status.error(f"error {number}")
    status.update(refused=name_list(f"{number:03}" for number in range(300)))
    status.close()
    assert [error.message for error in status.record.errors][-1] == "error 24"
    assert len(status.record.errors) == 10
    assert (status.record.refused.count, len(status.record.refused.names)) == (300, 100)
    with pytest.raises(ValueError, match="Extra inputs"):
        status.update(nonsense=1)
