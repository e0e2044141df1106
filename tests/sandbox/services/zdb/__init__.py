"""A stand-in for the 0-db server (zdbd 2.0.7): same protocol, texts and order, its own files.

tests/golden holds it to the recorded answers of the real one and names the commands that it lacks.
In memory it is fast enough to be a bench's yardstick; given directories it keeps what it has
acknowledged through kill -9. Sources of the protocol: 0-db, zdbd/commands_*.c, zdbd/redis.c.
"""

from tests.sandbox.services.zdb.namespace import Namespace
from tests.sandbox.services.zdb.server import ZdbServer
from tests.sandbox.services.zdb.store import Settings, Store

__all__ = ["Namespace", "Settings", "Store", "ZdbServer"]
