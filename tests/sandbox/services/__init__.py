"""Stand-ins for upstream's service images: 0-db, 0-hub and 0-bootstrap.

They run on Debian 12's python 3.11 with the standard library and, for uploads to a writable hub,
the packages python3-nacl (tokens) and python3-snappy (chunks).
"""
