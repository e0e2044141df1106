"""Measurements: `python -m tests.bench`, figures in build/bench/results.json."""
