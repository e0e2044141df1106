# ruff: noqa: INP001  a script beside the workflows, no package
"""What the workflows do with stacks; each verb is one step, so that it can be tried anywhere.

    stacks.py affected BASE         JSON list of the stacks that a change since BASE touches
    stacks.py all                   JSON list of all stacks that are somebody's, by SSH
    stacks.py connect STACK         write GRIDHUB_SSH_KEY, GRIDHUB_KNOWN_HOSTS where the stack says
    stacks.py preview STACK FILE    preview, and a comment's text about it into FILE
    stacks.py comment PR STACK FILE put the text into the stack's own comment on a pull request
    stacks.py drift STACK           look for drift; open, update or close the stack's one issue

A stack that `affected` or `all` leaves out is named with the reason, as a warning of the run. The
stack's own comment or issue is the one that the bot wrote: anybody may write its marker.
Needs git, pulumi and gh on PATH, as far as a verb uses them. Exit code 0 unless a step failed;
a preview that failed still writes its text first.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
STACKS = ROOT / "stacks"
# Whatever the program is made from: a change there touches every stack.
PROGRAM = (
    *("__main__.py", "Pulumi.yaml", "requirements.lock"),
    *("components/", "gate/", "hub_tools/", "sync/"),
)
# Not somebody's mirror: tried out or copied, never deployed.
NOBODYS = ("sandbox", "example-records", "example-wildcard")
EXAMPLE = "example-"
# Only a host that is named can be reached from here: a socket would be the runner's own.
REMOTE = "ssh://"
PROJECT = "gridhub"
# Who writes with the token that GitHub gives a workflow; one of another app or user has its own.
BOT = "github-actions[bot]"
# GitHub refuses comments of more than 65,536 characters.
LONGEST_TEXT = 60_000


def main(arguments: list[str]) -> int:
    """Run one verb and return the exit code."""
    match arguments:
        case ["preview", stack, file]:
            return preview(stack, Path(file))
        case ["comment", pull_request, stack, file]:
            return comment(pull_request, stack, Path(file).read_text())
        case ["drift", stack]:
            return drift(stack)
        case ["affected", base]:
            print(json.dumps(affected(changed_since(base))))
        case ["all"]:
            print(json.dumps(deployed()))
        case ["connect", stack]:
            connect(stack)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


class StackFileError(Exception):
    """A stack file that cannot be read; `str()` says where and why."""


def deployed() -> list[str]:
    """Return the names of all stacks that are somebody's and reached by SSH, sorted."""
    return _reached(_stacks())


def _stacks() -> list[str]:
    names = (path.name.removeprefix("Pulumi.") for path in STACKS.glob("Pulumi.*.yaml"))
    stacks = sorted(name.removesuffix(".yaml") for name in names)
    return [name for name in stacks if name not in NOBODYS]


def _reached(stacks: list[str]) -> list[str]:
    """Return the stacks that are reached from here, and name the others in the run's warnings."""
    reasons = {stack: reason for stack in stacks if (reason := _left_out(stack))}
    for stack, reason in reasons.items():
        # GitHub shows such a line beside the file in the change, and on the run's page.
        line = f"::warning file=stacks/Pulumi.{stack}.yaml::stack {stack} is left out: {reason}"
        print(line, file=sys.stderr)
    return [stack for stack in stacks if stack not in reasons]


def _left_out(stack: str) -> str:
    """Return why a stack cannot be reached from here, nothing where it can."""
    if stack.startswith(EXAMPLE):
        return f"its name begins with {EXAMPLE}, as that of nobody's stack does; give it another"
    try:
        docker = host_of(stack).get("docker")
    except StackFileError:
        return ""  # its own preview, `up` and drift check fail with the reason
    if not isinstance(docker, str):
        return f"host.docker is not in plain text in its file, as {REMOTE}USER@HOST"
    if docker.startswith(REMOTE):
        return ""
    return f"host.docker is no {REMOTE} one, so its `pulumi up` is run on the host itself"


def host_of(stack: str) -> dict[str, Any]:
    """Return the `host` setting of a stack file, empty where it has none in plain text.

    Raises StackFileError.
    """
    path = STACKS / f"Pulumi.{stack}.yaml"
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        config = {_full(key): value for key, value in (loaded.get("config") or {}).items()}
        host = config.get(f"{PROJECT}:host") or {}
        # `pulumi config set host '{…}'` writes a text.
        return dict(yaml.safe_load(host) if isinstance(host, str) else host)
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, OSError) as error:
        problem = " ".join(str(error).split())
        raise StackFileError(f"{path}: no stack file of Pulumi: {problem}") from error
    except RecursionError as error:
        raise StackFileError(f"{path}: no stack file of Pulumi: nested too deep") from error


def _full(key: str) -> str:
    # As Pulumi reads keys (sdk/go/common/workspace/loaders.go: stackConfigNamespacedWithProject;
    # sdk/go/common/resource/config/key.go: ParseKey takes `project:config:key` as well).
    namespace, colon, name = key.rpartition(":")
    return f"{namespace.removesuffix(':config') if colon else PROJECT}:{name}"


def changed_since(base: str) -> list[str]:
    """Return the paths that differ from `base`; an unknown base (first push) means all of them."""
    known = _run("git", "cat-file", "-e", f"{base}^{{commit}}", check=False).returncode == 0
    # Of a file that moved both names count; a name that is not ASCII is not quoted.
    diff = ("diff", "--name-only", "--no-renames", "-z", base, "HEAD")
    return _run("git", *(diff if known else ("ls-files", "-z"))).stdout.split("\0")


def affected(paths: list[str]) -> list[str]:
    """Return the deployed stacks that a change of these paths touches."""
    if any(path.startswith(PROGRAM) for path in paths):
        return deployed()
    return _reached([stack for stack in _stacks() if f"stacks/Pulumi.{stack}.yaml" in paths])


def connect(stack: str) -> None:
    """Write the key and the known_hosts of an ssh:// stack to the paths that its file names.

    Raises SystemExit with the remedy where the environment holds neither.
    """
    try:
        host = host_of(stack)
    except StackFileError as error:
        raise SystemExit(str(error)) from error
    for key, variable in (
        ("sshKeyPath", "GRIDHUB_SSH_KEY"),
        ("knownHostsPath", "GRIDHUB_KNOWN_HOSTS"),
    ):
        if key not in host:
            continue
        content = os.environ.get(variable, "")
        if not content:
            raise SystemExit(f"{variable} is empty: add it to the secrets of environment {stack}")
        path = Path(host[key])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        # As pasted into a form, perhaps on Windows; ssh wants keys as ssh-keygen wrote them.
        lines = content.replace("\ufeff", "").strip().splitlines()
        path.write_text("".join(f"{line.strip()}\n" for line in lines))


def preview(stack: str, file: Path) -> int:
    """Preview without asking the host, and write what a reviewer should read."""
    done = _preview(stack, "--diff")
    verdict = "" if done.returncode == 0 else " **failed**"
    file.write_text(
        f"{_marker('preview', stack)}\n### Preview of `{stack}`{verdict}\n\n"
        f"{_fenced(done.stdout + done.stderr)}\n\n"
        "Not seen: the host as it is (stopped containers, drift of the mirror). The scheduled "
        "drift check and `pulumi preview --refresh` on a machine with the host's key look there.\n"
    )
    return done.returncode


def comment(pull_request: str, stack: str, text: str) -> int:
    """Write the stack's own comment: the bot's one with its marker, else a new one."""
    comments = f"/{pull_request}/comments"
    found = _gh_own(f"{comments}?per_page=100", _marker("preview", stack))
    if not found:
        return _gh_write("POST", comments, body=text)
    return _gh_write("PATCH", f"/comments/{found[0]['id']}", body=text)


def drift(stack: str) -> int:
    """Refresh and compare; returns 0 also when there is drift, as the issue then says so."""
    done = _preview(stack, "--diff", "--refresh", "--expect-no-changes")
    marker = _marker("drift", stack)
    opened = _gh_own("?state=open&per_page=100", marker)
    if done.returncode == 0:
        codes = [_gh_write("PATCH", f"/{one['number']}", state="closed") for one in opened]
        return max(codes, default=0)
    text = {
        "title": f"Drift of {stack}",
        "body": (
            f"{marker}\nWhat the stack says and what there is differ, or could not be compared. "
            f"`pulumi up --refresh --stack {stack}` repairs what it can; this issue closes itself "
            f"when the next check finds nothing.\n\n{_fenced(done.stdout + done.stderr)}\n"
        ),
    }
    if opened:
        return _gh_write("PATCH", f"/{opened[0]['number']}", **text)
    return _gh_write("POST", "", **text)


def _marker(kind: str, stack: str) -> str:
    return f"<!-- gridhub {kind} {stack} -->"


def _fenced(text: str) -> str:
    shown = text.strip()
    if len(shown) > LONGEST_TEXT:
        shown = f"{shown[:LONGEST_TEXT]}\n… cut; the whole is in the job's log"
    # A fence longer than any in the text, so that nothing in it can end it; one that is no fence of
    # anybody's is cut, or ours would be too long for a comment.
    shown = re.sub("`{100,}", "`" * 100, shown)
    fence = "```"
    while fence in shown:
        fence += "`"
    return f"{fence}diff\n{shown}\n{fence}"


def _preview(stack: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = ("pulumi", "preview", "--non-interactive", "--color", "never", "--stack", stack)
    done = _run(*command, *flags, check=False)
    # The job's log has all of it, also where a comment has only the start.
    sys.stdout.write(done.stdout)
    return done


def _issues(below: str) -> str:
    return f"repos/{os.environ['GITHUB_REPOSITORY']}/issues{below}"


def _gh_own(below: str, marker: str) -> list[dict[str, Any]]:
    """Return the issues or comments that the bot wrote and that begin with a marker."""
    pages = json.loads(_run("gh", "api", "--paginate", "--slurp", _issues(below)).stdout)
    return [entry for page in pages for entry in page if _is_own(entry, marker)]


def _is_own(entry: dict[str, Any], marker: str) -> bool:
    # Whoever may comment can write the marker; nobody can have the bot's login, as brackets are in
    # no user's. GitHub lists pull requests among the issues, and has no author of a deleted user.
    author = (entry.get("user") or {}).get("login")
    by_bot = author == (os.environ.get("GRIDHUB_BOT") or BOT)
    return by_bot and "pull_request" not in entry and (entry["body"] or "").startswith(marker)


def _gh_write(method: str, below: str, **body: str) -> int:
    command = ("gh", "api", "--method", method, _issues(below), "--input", "-", "--silent")
    return _run(*command, stdin=json.dumps(body)).returncode


def _run(
    *command: str, check: bool = True, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    sys.stderr.write(done.stderr)
    if check and done.returncode != 0:
        raise SystemExit(f"{' '.join(command[:3])} exited with {done.returncode}: {done.stderr}")
    return done


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
