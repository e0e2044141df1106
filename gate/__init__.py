"""The gate: what every client of the mirror's HTTP meets first, in a container of its own.

It passes connections on to Caddy, byte for byte, and bounds what one client and all together can
hold; and it keeps the queue and the cache in front of bootstrap's boot media (docs/adr/0017).

Standard library only, Python 3.11 and later: it runs in the stack's Python image. Nothing here
imports the rest of this project.
"""
