"""The images of the services on the host, each pinned."""

import pulumi
import pulumi_docker as docker

from components.settings import Settings


class Images(pulumi.ComponentResource):
    """The service images on the host; `ids` maps a service to the image id that pins it.

    It pulls, and never builds or removes: an image may be another stack's too.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        after: list[pulumi.Resource],
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("gridhub:index:Images", name, None, opts)
        self.ids = {
            service: docker.RemoteImage(
                f"{name}-{service}",
                name=pullable(reference),
                keep_locally=True,
                opts=pulumi.ResourceOptions(parent=self, depends_on=after),
            ).image_id
            for service, reference in settings.images
            if service != "bootstrap" or settings.bootstrap.enabled
        }
        self.register_outputs({"ids": dict(self.ids)})


def pullable(reference: str) -> str:
    """Return an image reference without its tag where a digest says what is meant.

    The engine knows a pulled image as NAME@DIGEST only, so a tag in between would not be found.
    """
    name, at, digest = reference.partition("@")
    if not at:
        return reference
    path, slash, last = name.rpartition("/")
    return f"{path}{slash}{last.partition(':')[0]}@{digest}"
