"""The three sync jobs in the stack: spec out, status record back."""

from typing import Final

from pulumi.dynamic import ResourceProvider

RECORDED: Final = (
    *("phase", "healthy", "summary", "reason", "readyState", "runningAgent", "specDigest"),
    *("startedAt", "updatedAt", "endedAt", "nextAt", "bootableAt", "firstPassAt"),
    *("lastSuccessAt", "done", "total", "cursor", "lag", "rateItemsPerSecond"),
    *("rateBytesPerSecond", "etaSeconds", "retries", "refused", "broken", "errors", "master"),
    *("details", "container"),
)


class JobProvider(ResourceProvider):
    """Writes a job's spec, waits as asked, records its status."""
