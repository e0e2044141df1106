"""The health check of an agent's container; standard library only, so that it starts quickly.

`python3 health.py users` ends with 0 when the job's status record is fresh: the agent lives and
tells where it stands. A job that failed is told in that record and in the stack, not here: `up`
waits for healthy containers before it writes the spec that may be what the job needs.
Started as a script, this folder is the first on sys.path: import nothing here that would look
for a module named like one of its neighbours (http, schedule).
"""

import json
import sys
import time
from datetime import datetime

FRESH_SECONDS = 60
DEFAULT_STATE = "/state"


def verdict(record: dict[str, object], now_seconds: float) -> str:
    """Return why the record is unhealthy, or an empty string."""
    updated = datetime.fromisoformat(str(record["updated_at"])).timestamp()
    if now_seconds - updated > FRESH_SECONDS:
        return f"status record is {now_seconds - updated:.0f} s old"
    return ""


def main(arguments: list[str]) -> int:
    """Check the record of the job named first; a second argument is its state directory."""
    job = arguments[0]
    state = arguments[1] if len(arguments) > 1 else DEFAULT_STATE
    try:
        with open(f"{state}/status.json", encoding="utf-8") as file:  # noqa: PTH123 - pathlib doubles the start time
            record = json.load(file)
        reason = f"record of {record['job']}" if record["job"] != job else ""
        reason = reason or verdict(record, time.time())
    except (OSError, ValueError, KeyError) as error:
        reason = f"no status record: {error}"
    print(reason or f"{job}: {record['phase']} {record.get('reason', '')}".rstrip())
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
