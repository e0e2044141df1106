"""Putting the services on a gRPC server."""

from __future__ import annotations

import grpc
from pulumi.runtime.proto import engine_pb2_grpc, resource_pb2_grpc

from tests.sandbox.engine.monitor import EngineService, Monitor


def add_monitor(monitor: Monitor, server: grpc.Server) -> None:
    """Serve the ResourceMonitor."""
    resource_pb2_grpc.add_ResourceMonitorServicer_to_server(monitor, server)


def add_engine(service: EngineService, server: grpc.Server) -> None:
    """Serve the Engine."""
    engine_pb2_grpc.add_EngineServicer_to_server(service, server)
