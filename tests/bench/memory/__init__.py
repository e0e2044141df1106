"""What each job's memory holds: the largest of each kind that passes, and the next, refused.

`python -m tests.bench.memory [--limit JOB=MIB] [WORDS]` runs the jobs in containers of the
documented size, each against a master that sends one kind of large thing, larger and larger.
"""
