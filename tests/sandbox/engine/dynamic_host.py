"""Runs the dynamic provider of the `pulumi` wheel, and ends it where the engine was killed.

Executed by the program's own interpreter in place of `python -m pulumi.dynamic ENGINE`. Where a
test asks for failures (tests/sandbox/plugins/faults.py has the rules), its operations fail so.
"""

import importlib.util
import os
import runpy
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc

_FAULTS = Path(__file__).parents[1] / "plugins" / "faults.py"
_OPERATIONS = ("Check", "Diff", "Create", "Read", "Update", "Delete")


def _end_with_the_engine() -> None:
    engine = os.getppid()
    while os.getppid() == engine:
        time.sleep(1)
    os._exit(1)


def _faults_module() -> ModuleType:
    """Import the rules by their file: the program's path must not lead to the sandbox."""
    spec = importlib.util.spec_from_file_location("gridhub_sandbox_faults", _FAULTS)
    if spec is None or spec.loader is None:
        raise ImportError(f"no {_FAULTS}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class _Failing(grpc.ServerInterceptor):
    """Lets the operations fail that a rule names, before or after they are done."""

    def __init__(self, rules: ModuleType) -> None:
        self._rules = rules
        self._faults = rules.Faults()

    def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: Any
    ) -> Any:
        handler = continuation(handler_call_details)
        operation = handler_call_details.method.rpartition("/")[2]
        if handler is None or operation not in _OPERATIONS:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            partial(self._call, operation.lower(), handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _call(self, operation: str, method: Callable[..., Any], request: Any, context: Any) -> Any:
        try:
            self._faults.trip(operation, request.urn, "before")
            answer = method(request, context)
            self._faults.trip(operation, request.urn, "after")
        except self._rules.InjectedFailureError as failure:
            context.abort(grpc.StatusCode.UNKNOWN, str(failure))
        return answer


def _fail_on_demand() -> None:
    rules = _faults_module()
    if not os.environ.keys() & {rules.RULES_VARIABLE, rules.FILE_VARIABLE}:
        return
    grpc.server = partial(grpc.server, interceptors=[_Failing(rules)])


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_engine, daemon=True).start()
    _fail_on_demand()
    # As with -m: providers are imported from the program's directory, never from the engine's.
    sys.path[0] = os.getcwd()  # noqa: PTH109 - a string is wanted
    runpy.run_module("pulumi.dynamic", run_name="__main__", alter_sys=True)
