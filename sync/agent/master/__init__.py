"""The master over HTTP: its names, who it is, and the only client that talks to it."""
