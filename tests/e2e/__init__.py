"""End to end: the whole line, from a stack file to a client that boots."""
