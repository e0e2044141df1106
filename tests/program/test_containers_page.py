"""docs/containers.md says what the program declares."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pytest

from tests.program.declared import PROJECT, Declared, declare, production

PAGE = PROJECT / "docs" / "containers.md"
ROOT = PurePosixPath("/srv")


@dataclass(frozen=True)
class Row:
    """A line of the page's table, or of what the program declares."""

    image: str
    uid: int
    capabilities: tuple[str, ...]
    writes: frozenset[str]
    reads: frozenset[str]
    memory_mb: int
    processes: int


def written() -> dict[str, Row]:
    rows = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and re.fullmatch(r"`\w+`", cells[0]):
            rows[cells[0].strip("`")] = Row(
                image=cells[1],
                uid=int(cells[2]),
                capabilities=() if cells[3] == "none" else tuple(cells[3].split(", ")),
                writes=_paths(cells[4]),
                reads=_paths(cells[5]),
                memory_mb=int(cells[6]),
                processes=int(cells[7]),
            )
    return rows


def _paths(cell: str) -> frozenset[str]:
    return frozenset(re.findall(r"`([^`]+)`", cell))


def _row(inputs: dict[str, Any]) -> Row:
    limits = {limit["name"]: int(limit["hard"]) for limit in inputs["ulimits"]}
    volumes = [(_below_root(v["hostPath"]), v["readOnly"]) for v in inputs["volumes"]]
    return Row(
        image=inputs["image"].removeprefix("sha256:images-"),
        uid=int(inputs["user"].partition(":")[0]),
        capabilities=tuple(inputs["capabilities"].get("adds") or ()),
        writes=frozenset(path for path, read_only in volumes if not read_only),
        reads=frozenset(path for path, read_only in volumes if read_only),
        memory_mb=int(inputs["memory"]),
        processes=limits["nproc"],
    )


def _below_root(path: str) -> str:
    return re.sub(r"^agent/.*", "agent/DIGEST", str(PurePosixPath(path).relative_to(ROOT)))


@pytest.fixture(scope="module")
def mirror() -> Declared:
    return declare(production(), "prod")


def test_the_table_is_what_the_program_declares(mirror: Declared) -> None:
    writable = declare({**production(), "gridhub:mode": "detached"}, "prod").containers()
    declared = {**mirror.containers(), "packer": writable["packer"]}
    assert written() == {name: _row(inputs) for name, inputs in declared.items()}


def test_the_number_of_open_files_is_the_programs(mirror: Declared) -> None:
    (shown,) = re.findall(r"`ulimit nofile` (\d+)", PAGE.read_text())
    for inputs in mirror.containers().values():
        assert {"name": "nofile", "soft": int(shown), "hard": int(shown)} in inputs["ulimits"]


def test_only_bootstrap_may_run_what_it_makes_in_tmp(mirror: Declared) -> None:
    may = {name for name, i in mirror.containers().items() if "exec" in i["tmpfs"]["/tmp"]}
    assert may == {"bootstrap"}
