"""What `pulumi install` does: the lock, whole and by hash, whichever pip the machine has."""

import subprocess
import sys
from importlib.metadata import distribution

from packaging.requirements import Requirement

from tests.program.declared import PROJECT

LOCKED = [
    Requirement(line.rstrip(" \\"))
    for line in (PROJECT / "requirements.lock").read_text().splitlines()
    if line[:1].isalnum()
]


def installed() -> list[str]:
    """Return the names in the lock that this platform wants."""
    return [entry.name for entry in LOCKED if entry.marker is None or entry.marker.evaluate()]


def test_pip_takes_the_file_that_pulumi_install_names_as_complete_and_installed() -> None:
    """Pulumi's language host runs `pip install -r requirements.txt` in the virtual environment."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index"]
    done = subprocess.run(
        [*command, "-r", "requirements.txt"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Would install" not in done.stdout, "the environment is not the lock's"
    satisfied = done.stdout.count("Requirement already satisfied")
    assert satisfied >= len(installed()), "requirements.txt does not lead to the whole lock"
    assert "--require-hashes\n" in (PROJECT / "requirements.txt").read_text()


def test_nothing_that_is_locked_wants_an_extra_of_another() -> None:
    """Then pip 23 (Debian 12's) would look for later releases, which have no hash here."""
    for name in installed():
        wanted = map(Requirement, distribution(name).requires or ())
        for entry in wanted:
            if entry.marker is None or entry.marker.evaluate({"extra": ""}):
                assert not entry.extras, f"{name} wants {entry}"
