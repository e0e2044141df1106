"""A mirror's edge over the stand-ins, filled once and as new for each test."""

from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.sandbox.tests.node.edge import DOMAIN, Certificate, Certificates, Edge
from tests.sandbox.upstream import UpstreamModel, standard_world
from tests.sandbox.upstream.model import Snapshot

NAMES = tuple(f"{name}{DOMAIN}" for name in ("hub.", "bootstrap.", "unsecure.bootstrap."))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    place = tmp_path_factory.mktemp("certificates")
    key = rsa.generate_private_key(65537, 2048)
    return Certificates(
        Certificate(place / "rsa", key, NAMES),
        Certificate(place / "ecdsa", ec.generate_private_key(ec.SECP256R1()), NAMES),
        Certificate(place / "stranger", key, ("hub.grid.tf",)),
    )


@pytest.fixture(scope="session")
def filled(certificates: Certificates) -> Iterator[tuple[Edge, Snapshot]]:
    with Edge(UpstreamModel(), certificates.rsa) as edge:
        standard_world(edge.model)
        yield edge, edge.model.snapshot()


@pytest.fixture
def edge(filled: tuple[Edge, Snapshot]) -> Iterator[Edge]:
    """Provide a mirror of the standard world, as new for each test."""
    running, snapshot = filled
    sources = dict(running.model.sources)
    yield running
    running.well()
    running.model.rewind(snapshot)
    running.model.sources = sources
