"""Client of the 0-db protocol (RESP over TCP, 0-db: zdbd/redis.c): bounded, pipelined, stdlib only.

Everything that a server may answer is treated as hostile: lengths are limited before anything is
allocated, and all that can go wrong is one family of exceptions (`errors`).
"""
