"""The promise of a job's status record: how often it is written, and when it is too old.

Plain constants, as the health check of a container reads them every few seconds and imports
nothing else of ours.
"""

# The agent writes it so often at least, in every phase.
WRITE_SECONDS = 5.0
# An older one means that the job is gone or hung, or that the host was down.
STALE_SECONDS = 12 * WRITE_SECONDS
# No record and no spec is larger: they have a hundred names twice, ten errors, a master's names.
LONGEST_BYTES = 512 << 10
