"""The agent's log: one JSON object a line on standard output."""

import json
import logging
import sys
from datetime import UTC, datetime

from sync.contract.names import shown


class JsonLines(logging.Formatter):
    """time, level, logger, message; a traceback under `trace`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON without line breaks in it."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": shown(record.getMessage()),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def start() -> None:
    """Send everything from `info` upwards to standard output as JSON lines."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
