"""A hub with ZOS' case: a taglink that moves from a tag to the next, which has three flists."""

from pathlib import Path

from tests.agent.hub.flists_of import small
from tests.agent.hub.small_hub import DAY, OLD
from tests.agent.mirrors import UsersMirror
from tests.sandbox.upstream import UpstreamModel

THREE = {f"{name}.flist": f"tf-auto/{name}.flist" for name in ("base", "net", "store")}


def tagged_model() -> UpstreamModel:
    """Return the hub before the move: the flists of both tags are there, tag 2 is not."""
    model = UpstreamModel()
    model.now = lambda: OLD
    for number, name in enumerate(("base", "net", "store", "old")):
        model.add_flist("tf-auto", f"{name}.flist", small(number), OLD + number * DAY)
    model.set_tag("tf-zos", "1", {"base.flist": "tf-auto/old.flist"})
    model.set_taglink("tf-zos", "production", "tf-zos", "1")
    return model


def move_to_2(model: UpstreamModel, entries: dict[str, str] | None = None) -> None:
    """Make tag 2, and let the taglink move there."""
    model.set_tag("tf-zos", "2", entries or THREE)
    model.set_taglink("tf-zos", "production", "tf-zos", "2")


def users(mirror: UsersMirror) -> Path:
    """Return the folder that the mirror's hub lists."""
    return mirror.directories.public / "users"
