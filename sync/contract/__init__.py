"""What the processes agree on: the agent's jobs, the providers in the stack, the command line.

Nothing here imports Pulumi, the agent or the providers, or opens a socket; only state_db and
pinned_chunks touch a disk.
"""
