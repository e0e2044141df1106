"""`gridhub pin-images`: every image of a stack file by the digest that its tag names now.

The file is read by a YAML parser and edited at the positions of the images alone: a writer would
also change what an operator or Pulumi wrote elsewhere (docs/adr/0013).
Images of localhost/ are built on the host and stay. A file without `images` gets upstream's.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import click
import requests
import yaml

from cli.registry import ImageName, RegistryError, digest_of, open_session
from cli.stack import StackFileError, stack_file
from components.settings import PROJECT

UPSTREAM: Final[Mapping[str, str]] = {
    "zdb": "ghcr.io/threefoldtech/0-db:development-v2",
    "hub": "ghcr.io/threefoldtech/zos_flist_hub:master",
    "bootstrap": "ghcr.io/threefoldtech/zos_bootstrap:development-v3",
    "caddy": "docker.io/library/caddy:2.8.4",
    "python": "docker.io/library/python:3.11-slim",
}
_KEY: Final = f"{PROJECT}:images"
_SHORT: Final = "images"  # Pulumi adds the project's name (sdk/go/common/workspace/loaders.go)
_Pair: TypeAlias = tuple[yaml.Node, yaml.Node]


def pinned(text: str, pin: Callable[[str], str]) -> str:
    """Return the stack file's text with every image passed through `pin`.

    pin: from an image reference as written to the pinned one. Raises StackFileError.
    """
    images = _images(text)
    if images is None:
        text = _with_upstream(text)
        images = _images(text) or []
    # From the end, so that the positions before stay right.
    for image, reference in reversed([(image, pin(image.value)) for _service, image in images]):
        quote = image.style or ""
        before, after = text[: image.start_mark.index], text[image.end_mark.index :]
        text = f"{before}{quote}{reference}{quote}{after}"
    return text


def _found(text: str, *path: str) -> _Pair | None:
    """Return the last key of a path into the file, with its value."""
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise StackFileError(f"it is not YAML: {error}") from error
    pair: _Pair | None = None
    for key in path:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        pair = next((entry for entry in pairs if entry[0].value == key), None)
        node = pair[1] if pair else None
    return pair


def _images(text: str) -> list[tuple[yaml.Node, yaml.ScalarNode]] | None:
    """Return services and images as they stand in the file, in order; None where it has none."""
    found = _found(text, "config", _KEY) or _found(text, "config", _SHORT)
    if found is None:
        return None
    if not isinstance(found[1], yaml.MappingNode):
        raise StackFileError(f"{_KEY} is not a mapping from services to images")
    for service, image in found[1].value:
        written = text[image.start_mark.index : image.end_mark.index]
        # Anything but the reference alone, such as an anchor, an alias or a block, stays as it is.
        if not image.value or written.strip("\"'") != image.value:
            line = service.start_mark.line + 1
            raise StackFileError(f"line {line}: {service.value!r} is not `service: image`")
    return list(found[1].value)


def _with_upstream(text: str) -> str:
    """Add upstream's images as the first setting."""
    found = _found(text, "config")
    if found is None:
        return _with_upstream(f"{text.rstrip()}\nconfig:\n".lstrip())
    key, config = found
    column = 2
    if config.value and isinstance(config, yaml.MappingNode) and not config.flow_style:
        column = config.value[0][0].start_mark.column
    elif config.value in ([], "", "~", "null"):
        text = text[: config.start_mark.index].rstrip(" ") + text[config.end_mark.index :]
    else:
        raise StackFileError("write `config` as a block of lines, a setting each")
    entries = [f"{_KEY}:", *(f"  {name}: {reference}" for name, reference in UPSTREAM.items())]
    lines = text.splitlines(keepends=True)
    at = key.start_mark.line + 1
    return "".join([*lines[:at], *(f"{' ' * column}{entry}\n" for entry in entries), *lines[at:]])


def pin_reference(reference: str, session: requests.Session) -> str:
    """Return NAME:TAG@sha256:… of what the tag names now; localhost/ images unchanged."""
    if reference.startswith("localhost/"):
        return reference
    written, at, _digest = reference.partition("@")
    image = ImageName.parse(written)
    if at and ":" not in written.rpartition("/")[2]:
        raise StackFileError(f"{reference} names no tag to ask for; write NAME:TAG@sha256:…")
    return f"{image}@{digest_of(image, session)}"


def pin_images(stack: str, *, dry_run: bool) -> None:
    """Pin a stack's images; the file is replaced only when every image could be pinned.

    Raises click.ClickException, with the file as it was.
    """
    path = stack_file(stack)
    session = open_session()

    def pin(reference: str) -> str:
        found = pin_reference(reference, session)
        click.echo(f"{reference} is {found}" if found != reference else f"{reference} stays")
        return found

    before = path.read_text(encoding="utf-8")
    try:
        after = pinned(before, pin)
    except (StackFileError, RegistryError) as error:
        raise click.ClickException(f"{path}: {error}; nothing was written") from error
    if dry_run or after == before:
        click.echo(f"{path}: {'nothing was written' if dry_run else 'stays as it is'}")
        return
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(after, encoding="utf-8")
    temporary.replace(path)
    click.echo(f"{path}: written")
