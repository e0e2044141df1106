"""Stand-ins for upstream's service images: 0-db, 0-hub and 0-bootstrap.

They run on Debian 12's python 3.11 with the standard library and, for the tokens of a writable
hub, the package python3-nacl.
"""
