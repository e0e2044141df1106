"""The program that `pulumi` runs: settings in, a mirror declared, what to know of it out."""

import pulumi

from components.dns_records import ExistingRecordsError
from components.mirror import Mirror, MirrorConfig
from components.naming import Naming
from components.outputs import stack_outputs
from components.settings import SettingsError, load
from sync.providers import agent_digest


def main() -> None:
    """Declare the stack; raises pulumi.RunError with every wrong setting at once."""
    try:
        settings = load()
        naming = Naming(pulumi.get_stack(), settings.domain)
        mirror = Mirror("mirror", MirrorConfig(naming, settings, agent_digest()))
    except (SettingsError, ExistingRecordsError) as error:
        raise pulumi.RunError(str(error)) from None
    for name, value in stack_outputs(mirror).items():
        pulumi.export(name, value)


main()
