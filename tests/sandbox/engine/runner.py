"""Runs a Pulumi program: executed by the program's own interpreter, importing only its SDK.

Arguments: a JSON object with monitor, engine, project, stack, parallel, dry_run, root_directory,
program and directory.
"""

import asyncio
import json
import logging
import os
import runpy
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

# Tells the engine that the program's failure has been shown already.
SHOWN_EXIT_CODE = 32


def _user_traceback(program: str) -> str:
    """Format the exception from the program's own frame on, without the runner's."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    inside = os.path.realpath(program if program.endswith(".py") else f"{program}/__main__.py")
    for place, frame in enumerate(frames):
        if os.path.realpath(frame.filename) == inside:
            return traceback.format_exc(limit=-(len(frames) - place))
    return traceback.format_exc()


def _end_with_the_engine() -> None:
    """End where the engine was killed and could not end this program."""
    engine = os.getppid()
    while os.getppid() == engine:
        time.sleep(1)
    os._exit(1)


def main() -> int:
    """Run the program to its end; the exit code tells how it went."""
    try:
        import pulumi
        import pulumi.runtime
    except ImportError:
        traceback.print_exc()
        print(
            "It looks like the Pulumi SDK has not been installed. Have you run pip install?\n"
            "If you are running in a virtualenv, you must run pip install -r requirements.txt "
            "from inside the virtualenv.",
            file=sys.stderr,
        )
        return 1
    # The program must not find the engine's modules in the place of packages of that name.
    sys.path[:] = [entry for entry in sys.path if entry != os.path.dirname(__file__)]  # noqa: PTH120
    given = json.loads(sys.argv[1])
    program = given["program"]
    pulumi.runtime.set_all_config(
        pulumi.runtime.get_config_env(), pulumi.runtime.get_config_secret_keys_env()
    )
    pulumi.runtime.configure(
        pulumi.runtime.Settings(
            monitor=given["monitor"],
            engine=given["engine"],
            project=given["project"],
            stack=given["stack"],
            parallel=given["parallel"],
            dry_run=given["dry_run"],
            organization="organization",
            root_directory=given["root_directory"],
        )
    )
    threading.Thread(target=_end_with_the_engine, daemon=True).start()
    sys.argv = [program]
    os.chdir(given["directory"])
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    executor = ThreadPoolExecutor(max_workers=max(given["parallel"], 1) * 4)
    loop.set_default_executor(executor)
    # A failed resource leaves futures behind that nobody awaits; that is no news.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)

    def run() -> None:
        runpy.run_path(program, run_name="__main__")

    exit_code = 1
    try:
        loop.run_until_complete(pulumi.runtime.run_in_stack(run))
        exit_code = 0
    except pulumi.RunError as error:
        pulumi.log.error(str(error))
    except Exception:  # noqa: BLE001 - whatever the program raises is shown to its author
        pulumi.log.error("Program failed with an unhandled exception:\n" + _user_traceback(program))
        exit_code = SHOWN_EXIT_CODE
    finally:
        executor.shutdown(wait=True)
        loop.close()
        sys.stdout.flush()
        sys.stderr.flush()
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
