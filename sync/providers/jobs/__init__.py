"""The three sync jobs in the stack: spec out, status record back."""

from sync.providers.jobs.provider import JobProvider

__all__ = ["JobProvider"]
