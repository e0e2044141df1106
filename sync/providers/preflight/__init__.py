"""What the host must be before the first change: facts gathered by a probe, judged at once."""

from sync.providers.preflight.provider import PreflightProvider

__all__ = ["PreflightProvider"]
