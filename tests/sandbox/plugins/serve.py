"""Serves a stand-in plugin by its name."""

from __future__ import annotations

import sys
from concurrent import futures

import grpc
from pulumi.runtime.proto import provider_pb2_grpc

from tests.sandbox.plugins import process
from tests.sandbox.plugins.faults import Faults
from tests.sandbox.plugins.provider import Plugin, Provider

_WORKERS = 16
_MESSAGE_BYTES = 400 * 1024 * 1024


def plugin_named(name: str) -> Plugin:
    """Return the stand-in of this name."""
    if name == "docker":
        from tests.sandbox.plugins.docker.plugin import DockerPlugin

        return DockerPlugin()
    if name == "cloudflare":
        from tests.sandbox.plugins.cloudflare.plugin import CloudflarePlugin

        return CloudflarePlugin()
    raise SystemExit(f"no stand-in plugin is named {name!r}; there are: cloudflare, docker")


def make_server(plugin: Plugin, faults: Faults | None = None) -> grpc.Server:
    """Return a server of this plugin that is not started."""
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=_WORKERS),
        options=[
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MESSAGE_BYTES),
        ],
    )
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(Provider(plugin, faults), server)
    return server


def start(plugin: Plugin, faults: Faults | None = None) -> tuple[grpc.Server, int]:
    """Serve a plugin on a free port of loopback; the caller stops the server."""
    server = make_server(plugin, faults)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def main(arguments: list[str]) -> int:
    """Serve the named plugin until the parent is gone or a signal comes."""
    if not arguments:
        print("usage: python -m tests.sandbox.plugins NAME [ENGINE_ADDRESS]", file=sys.stderr)
        return 2
    process.serve(make_server(plugin_named(arguments[0])))
    return 0
