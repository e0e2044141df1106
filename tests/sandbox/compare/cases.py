"""Every case."""

from __future__ import annotations

from tests.sandbox.compare.cases_failures import FAILURES
from tests.sandbox.compare.cases_lifecycle import LIFECYCLE
from tests.sandbox.compare.cases_options import OPTIONS

CASES = (*LIFECYCLE, *OPTIONS, *FAILURES)
BY_NAME = {case.name: case for case in CASES}
