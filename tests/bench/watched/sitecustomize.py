"""Writes down each call that a plugin or the language host of the Pulumi CLI answers.

Python imports a `sitecustomize` at every start. The benchmark puts this folder first on PYTHONPATH
and names a file in GRIDHUB_BENCH_SPANS, which gets a line of JSON per call (tests/bench/spans.py).
Only servers in Python can be watched so: the dynamic provider, and the sandbox's own. Python takes
the first `sitecustomize` on its path, so failures on demand can not be watched.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# The module that a process runs: what its spans are filed under.
_SERVERS = {
    "pulumi.dynamic": "pulumi-python",
    "tests.sandbox.pulumi.language": "program",
    "tests.sandbox.plugins": "plugin",
}


def _watch(package: str, file: str) -> None:
    import grpc

    lock = threading.Lock()

    def call(name: str, method: Callable[..., Any], request: Any, context: Any) -> Any:
        start = time.monotonic()
        try:
            return method(request, context)
        finally:
            resource = str(getattr(request, "urn", "")).rpartition("::")[2]
            span = {"package": package, "method": name, "resource": resource, "start": start}
            line = json.dumps({**span, "end": time.monotonic()})
            with lock, Path(file).open("a", encoding="utf-8") as lines:
                lines.write(line + "\n")

    class Watching(grpc.ServerInterceptor):
        def intercept_service(
            self, continuation: Callable[[Any], Any], handler_call_details: Any
        ) -> Any:
            handler = continuation(handler_call_details)
            if handler is None or handler.unary_unary is None:
                return handler
            name = handler_call_details.method.rpartition("/")[2]
            return grpc.unary_unary_rpc_method_handler(
                partial(call, name, handler.unary_unary),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )

    grpc.server = partial(grpc.server, interceptors=[Watching()])


for _module in _SERVERS.keys() & set(sys.orig_argv):
    if "GRIDHUB_BENCH_SPANS" in os.environ:
        _watch(_SERVERS[_module], os.environ["GRIDHUB_BENCH_SPANS"])
