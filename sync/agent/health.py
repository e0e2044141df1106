"""The health check of an agent's container; it imports next to nothing, so that it starts quickly.

`python3 health.py users` ends with 0 when the job's status record is fresh: the agent lives and
reports where it stands. A job that failed shows in that record and in the stack, not here: `up`
waits for healthy containers before it writes the spec that may be what the job needs.
"""

import json
import sys
import time
from datetime import datetime

# Started as a script, only this file's own folder is on sys.path.
sys.path.append(__file__.rpartition("/sync/agent/")[0])
from sync.contract import plain_files
from sync.contract.freshness import LONGEST_BYTES, STALE_SECONDS

DEFAULT_STATE = "/state"


def main(arguments: list[str]) -> int:
    """Check the record of the job named first; a second argument is its state directory."""
    job = arguments[0]
    state = arguments[1] if len(arguments) > 1 else DEFAULT_STATE
    try:
        record = json.loads(plain_files.read(f"{state}/status.json", LONGEST_BYTES))
        age = time.time() - datetime.fromisoformat(record["updated_at"]).timestamp()
        reason = f"status record is {age:.0f} s old" if age > STALE_SECONDS else ""
        reason = f"record of {record['job']}" if record["job"] != job else reason
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"no status record: {error}"
    print(reason or f"{job}: {record['phase']} {record.get('reason', '')}".rstrip())
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
