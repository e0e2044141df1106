"""The Pulumi CLI of the sandbox and the tests: the real one, and the language host it lacks."""
