"""The same small programs under the real Pulumi engine and under the sandbox's.

`python -m tests.sandbox.compare run` runs every case under both where the real `pulumi` is on
PATH and prints each difference in steps and in state; elsewhere it holds the sandbox's engine to
`recorded/`, which `record` took from the real one.
"""
