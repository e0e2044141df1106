"""Failures on demand in the program's own (dynamic) providers, under the real launcher.

Python imports a `sitecustomize` at every start. A test that asks for failures puts this folder
first on PYTHONPATH, besides FILE_VARIABLE of tests/sandbox/plugins/faults.py, which has the rules.
It acts in `python -m pulumi.dynamic` only, the process in which the engine runs those providers.
"""

import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

_FAULTS = Path(__file__).parents[1] / "faults.py"
_OPERATIONS = ("Check", "Diff", "Create", "Read", "Update", "Delete")


def _rules() -> ModuleType:
    """Import the rules by their file: the program's path must not lead to the sandbox."""
    spec = importlib.util.spec_from_file_location("gridhub_sandbox_faults", _FAULTS)
    if spec is None or spec.loader is None:
        raise ImportError(f"no {_FAULTS}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _inject() -> None:
    """Let every gRPC server of this process fail an operation that a rule names."""
    import grpc

    rules = _rules()
    faults = rules.Faults()

    def call(operation: str, method: Callable[..., Any], request: Any, context: Any) -> Any:
        try:
            faults.trip(operation, request.urn, "before")
            answer = method(request, context)
            faults.trip(operation, request.urn, "after")
        except rules.InjectedFailureError as failure:
            context.abort(grpc.StatusCode.UNKNOWN, str(failure))
        return answer

    class Failing(grpc.ServerInterceptor):
        def intercept_service(
            self, continuation: Callable[[Any], Any], handler_call_details: Any
        ) -> Any:
            handler = continuation(handler_call_details)
            operation = handler_call_details.method.rpartition("/")[2]
            if handler is None or operation not in _OPERATIONS:
                return handler
            return grpc.unary_unary_rpc_method_handler(
                partial(call, operation.lower(), handler.unary_unary),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )

    grpc.server = partial(grpc.server, interceptors=[Failing()])


if "pulumi.dynamic" in sys.orig_argv:
    _inject()
