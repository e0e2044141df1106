"""A small world for the model: real directories of this machine as flists, and kernels."""

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.sandbox.flist import pack_directory
from tests.sandbox.upstream.model import UpstreamModel

_STDLIB: Final = Path(os.__file__).parent
_SHARE: Final = Path("/usr/share")
_KERNEL_BYTES: Final = (1 << 20, 2 << 20)
_DAY_SECONDS: Final = 86400

# repository, flist, directory. Those of the library are on every machine that runs this; those of
# /usr/share only on Debian (the first brings symbolic links).
_FLISTS: Final = (
    ("tf-zos", "zos-base.flist", _STDLIB / "asyncio"),
    ("tf-zos", "zos-network.flist", _STDLIB / "http"),
    ("tf-zos", "zos-storage.flist", _STDLIB / "sqlite3"),
    ("tf-bootable", "debian-12.flist", _STDLIB / "email"),
    ("tf-bootable", "ubuntu-22.04.flist", _STDLIB / "encodings"),
    ("tf-official-apps", "threefoldtech-docs-latest.flist", _STDLIB / "pydoc_data"),
    ("tf-official-apps", "threefoldtech-nginx-1.24.flist", _STDLIB / "unittest"),
    ("tf-official-apps", "threefoldtech-redis-7.flist", _STDLIB / "multiprocessing"),
    ("tf-official-apps", "threefoldtech-caddy-2.8.flist", _STDLIB / "importlib"),
    ("alice.3bot", "alice-blog.flist", _STDLIB / "json"),
    ("alice.3bot", "alice-wiki.flist", _STDLIB / "xml"),
    ("alice.3bot", "alice-tools.flist", _STDLIB / "ctypes"),
)
_DEBIAN: Final = (
    ("tf-bootable", "licenses.flist", _SHARE / "common-licenses"),
    ("alice.3bot", "alice-perl.flist", _SHARE / "perl5"),
)
# What the master's builds publish: names with a colon, and no backend in the flists.
_BUILDS: Final = (
    ("bootstrap:3b51aa5.flist", _STDLIB / "html"),
    ("zos:v3.9.0:1f0c2d4.flist", _STDLIB / "wsgiref"),
    ("zos:v3.10.0:8a77e05.flist", _STDLIB / "urllib"),
)
# Every EFI kernel begins so.
_KERNEL_MAGIC: Final = b"MZ"
_KERNELS: Final = (
    "v3.6.0-generic-7f2b1c0.efi",
    "v3.7.1-generic-0d9e4aa.efi",
    "v3.8.0-generic-51c77e2.efi",
    "v3.9.2-generic-c04f8b1.efi",
    "v3.10.0-rc1-generic-98ab3d7.efi",
    "v3.10.0-generic-2b6a5f4.efi",
    "v3.11.0-dev-generic-e1d20c9.efi",
    "v3.11.0-qa-generic-4af7731.efi",
)
_NET_LINKS: Final = {"prod": 3, "test": 5, "dev": 6, "qa": 7}


@dataclass(frozen=True)
class WorldSize:
    """What a world holds; bytes of payloads, kernels and plain files."""

    flists: int
    chunks: int
    chunk_bytes: int
    kernels: int
    kernel_bytes: int


def standard_world(model: UpstreamModel, seed: int = 1) -> WorldSize:
    """Fill a model: at least 15 flists in 5 repositories, links, tags, 8 kernels, 4 net links.

    All is there that a node of any run mode asks for, from its boot medium to its upgrade.

    About 2 MB of chunks and 12 MB of kernels; takes a second. seed: for the kernels' bytes.
    """
    moment = model.now() - 100 * _DAY_SECONDS
    present = [*_FLISTS, *(found for found in _DEBIAN if found[2].is_dir())]
    for age, (repository, name, source) in enumerate(present):
        model.add_flist(repository, name, source, moment + age * _DAY_SECONDS)
    _builds(model, moment)
    _links(model)
    _kernels(model, moment, random.Random(seed))
    default = model.store.default
    return WorldSize(
        flists=len(model.flists()),
        chunks=len(default),
        chunk_bytes=default.payload_bytes,
        kernels=len(model.kernels),
        kernel_bytes=sum(len(kernel.data) for kernel in model.kernels.values()),
    )


def _builds(model: UpstreamModel, moment: float) -> None:
    for name, source in _BUILDS:
        packed = pack_directory(source)
        model.add_chunks(packed.chunks)
        model.add_flist("tf-autobuilder", name, packed.archive(), moment)
        model.sources[f"tf-autobuilder/{name}"] = source


def _links(model: UpstreamModel) -> None:
    model.set_link("tf-autobuilder", "bootstrap:latest.flist", "bootstrap:3b51aa5.flist")
    model.set_link("tf-zos", "zos.flist", "zos-base.flist")
    model.set_link("tf-bootable", "debian.flist", "debian-12.flist")
    model.set_link(
        "alice.3bot", "my-nginx.flist", "tf-official-apps/threefoldtech-nginx-1.24.flist"
    )
    model.set_tag(
        "tf-zos",
        "3.9",
        {
            "base.flist": "tf-zos/zos-base.flist",
            "zos.flist": "tf-autobuilder/zos:v3.9.0:1f0c2d4.flist",
        },
    )
    model.set_tag(
        "tf-zos",
        "3.10",
        {
            "zos.flist": "tf-autobuilder/zos:v3.10.0:8a77e05.flist",
            "base.flist": "tf-zos/zos-base.flist",
            "network.flist": "tf-zos/zos-network.flist",
            "storage.flist": "tf-zos/zos-storage.flist",
        },
    )
    model.set_tag("tf-zos", "3.11", {"base.flist": "tf-zos/zos-base.flist"})
    model.set_tag("alice.3bot", "stable", {"blog.flist": "alice.3bot/alice-blog.flist"})
    for name in ("production", "testing"):
        model.set_taglink("tf-zos", name, "tf-zos", "3.10")
    for name in ("development", "qa", "production-v3light"):
        model.set_taglink("tf-zos", name, "tf-zos", "3.11")
    model.set_taglink("alice.3bot", "zos", "tf-zos", "3.11")


def _kernels(model: UpstreamModel, moment: float, chance: random.Random) -> None:
    for age, name in enumerate(_KERNELS):
        data = _KERNEL_MAGIC + chance.randbytes(chance.randint(*_KERNEL_BYTES))
        model.add_kernel(name, data, moment + age * _DAY_SECONDS)
    for mode, position in _NET_LINKS.items():
        model.set_net_link(mode, _KERNELS[position])
