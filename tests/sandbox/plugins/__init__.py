"""Stand-ins for the docker and cloudflare resource plugins, for machines without the real ones.

Each is a ResourceProvider gRPC server with the defaults, outputs and update-or-replace decisions
of the real plugin, for the resources that this project uses; whatever else is asked of it is
refused by name. `python -m tests.sandbox.plugins NAME ENGINE_ADDRESS` serves one; the commands
`pulumi-resource-docker` and `pulumi-resource-cloudflare` in tests/sandbox/plugins/bin do just that.

The real docker plugin is a Terraform provider behind a bridge, and so is the stand-in in outline:

    schema      what attributes a resource has, and what a change of each means
    conversion  Pulumi's properties <-> the attributes' names and shapes in Terraform
    checks      inputs checked, defaults added
    planning    the state that new inputs would lead to
    differ      which properties of two states differ, in the keys that a preview shows
    provider    the gRPC service over those, shared by both plugins
    faults      failures on demand (GRIDHUB_SANDBOX_FAIL), so that a test can fail anywhere
"""
