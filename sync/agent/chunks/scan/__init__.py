"""The master's index: listed by several scanners, its pages, and the ledger of all listed keys."""
