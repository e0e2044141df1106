"""The program that `pulumi` runs: settings in, a mirror declared, what to know of it out."""

import pulumi

from components.dns_adoption import ExistingRecordsError
from components.mirror import Mirror
from components.naming import Stack
from components.outputs import stack_outputs
from components.settings import SettingsError, load


def main() -> None:
    """Declare the stack; raises pulumi.RunError with every wrong setting at once."""
    try:
        mirror = Mirror("mirror", Stack(pulumi.get_stack(), load()))
    except (SettingsError, ExistingRecordsError) as error:
        raise pulumi.RunError(str(error)) from None
    for name, value in stack_outputs(mirror).items():
        pulumi.export(name, value)


main()
