"""Dynamic providers: install a job on the host, read its status back into the stack."""

import logging
import sys

from sync.providers.host import directories, files

# A state names each provider by module and class (pulumi.dynamic pickles them by reference), and a
# refresh or delete loads what stands there: the modules' names in the releases before.
sys.modules[f"{__name__}.host_directories"] = directories
sys.modules[f"{__name__}.host_files"] = files

# Their messages would go to stderr, with tracebacks; what they say is in our errors.
for _name in ("paramiko", "stamina"):
    logging.getLogger(_name).addHandler(logging.NullHandler())
