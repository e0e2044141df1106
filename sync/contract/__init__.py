"""What the agent on the host and the providers in the stack agree on: spec, status, names, layout.

Nothing here imports Pulumi, opens a socket or touches a disk.
"""
