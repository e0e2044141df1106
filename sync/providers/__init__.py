"""Dynamic providers: install a job on the host, read its status back into the stack."""
