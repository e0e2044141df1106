"""Tests, and the sandbox they run in."""
