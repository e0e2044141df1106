"""The agent's log: one JSON object a line on standard output."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

from sync.contract.names import bounded

_LONGEST_MESSAGE: Final = 4000
_MOST_LINES: Final = 200


class JsonLines(logging.Formatter):
    """time, level, logger, message; a traceback under `trace`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON without line breaks in it."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": bounded(record.getMessage(), _LONGEST_MESSAGE),
        }
        if record.exc_info:
            trace = self.formatException(record.exc_info).split("\n")
            line["trace"] = "\n".join(bounded(text) for text in trace[-_MOST_LINES:])
        return json.dumps(line, ensure_ascii=False)


def start() -> None:
    """Send everything from `info` upwards to standard output as JSON lines."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
