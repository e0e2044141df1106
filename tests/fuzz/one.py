"""`python -m tests.fuzz.one TARGET FOLDER SECONDS`: fuzz one target, in a process of its own.

Ends with 0 after so many seconds without a finding. A finding ends it at once with another status;
what made it stands in FOLDER/findings, and its traceback on the standard error.
"""

import logging
import sys
import tempfile
from pathlib import Path
from typing import Final

import atheris

with atheris.instrument_imports(include=["sync"], enable_loader_override=False):
    from tests.fuzz.registry import TARGETS
from tests.sandbox.host import run

# No small input may cost more: past these libFuzzer calls it a finding.
_SECONDS_PER_INPUT: Final = 20
_MEMORY_MB: Final = 1024
_LONGEST_BYTES: Final = 65_536
_IN_MEMORY: Final = Path("/dev/shm")


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def main(name: str, folder: Path, seconds: int) -> None:
    """Fuzz until the time is over; does not return."""
    logging.disable()
    target = TARGETS[name]
    corpus, findings = _folder(folder / "corpus"), _folder(folder / "findings")
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = folder / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    memory = _IN_MEMORY if _IN_MEMORY.is_dir() else None
    # atheris ends the process without any clean-up: the end of the run removes it, by its name.
    scratch = Path(tempfile.mkdtemp(prefix=run.prefix(), dir=memory))
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-max_total_time={seconds}",
        f"-timeout={_SECONDS_PER_INPUT}",
        f"-rss_limit_mb={_MEMORY_MB}",
        f"-max_len={_LONGEST_BYTES}",
        f"-artifact_prefix={findings}/",
        f"-dict={words}",
        "-print_final_stats=1",
    ]
    atheris.Setup(arguments, lambda data: target.run(data, scratch))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
