"""Beside copying: full diff of both key sets, refetch, the master's deletes, verify and repair."""
