"""The syncs: `contract` (what both sides agree on), `agent` (runs on the host), `providers`."""
