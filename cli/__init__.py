"""The operator's commands: what is done by hand beside `pulumi up`."""
