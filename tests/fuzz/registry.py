"""All targets by name."""

from typing import Final

from tests.fuzz import flists, http, images, listings, statuses, zdb

TARGETS: Final = {
    module.TARGET.name: module.TARGET for module in (http, listings, images, flists, zdb, statuses)
}
