"""Cases of failures of providers in the middle of an update."""

from __future__ import annotations

from tests.sandbox.compare.case import Case, Run, ref, spec, thing

FAILURES = (
    Case(
        "create-fails-midway",
        (
            Run(
                "up",
                spec(
                    thing("a", v=1),
                    thing("b", v=ref("a"), failCreate="no room"),
                    thing("c", v=ref("b")),
                    out=ref("c"),
                ),
            ),
            Run("up", spec(thing("a", v=1), thing("b", v=ref("a")), thing("c", v=ref("b")))),
        ),
    ),
    Case(
        "update-fails-midway",
        (
            Run("up", spec(thing("a", v=1), thing("b", v=ref("a", "v")))),
            Run("up", spec(thing("a", v=2, failUpdate="stuck"), thing("b", v=ref("a", "v")))),
            Run("up", spec(thing("a", v=2), thing("b", v=ref("a", "v")))),
        ),
    ),
    Case(
        "replacement-fails-to-be-created",
        (
            Run("up", spec(thing("a", v=1, replaceOn=["v"]))),
            Run("up", spec(thing("a", v=2, replaceOn=["v"], failCreate="no"))),
            Run("up", spec(thing("a", v=2, replaceOn=["v"]))),
        ),
    ),
    Case(
        "delete-first-replacement-fails-to-be-created",
        (
            Run("up", spec(thing("a", v=1, replaceOn=["v"], dbr=True), thing("b", v=ref("a")))),
            Run(
                "up",
                spec(
                    thing("a", v=2, replaceOn=["v"], dbr=True, failCreate="no"),
                    thing("b", v=ref("a")),
                ),
            ),
            Run(
                "preview", spec(thing("a", v=2, replaceOn=["v"], dbr=True), thing("b", v=ref("a")))
            ),
            Run("up"),
        ),
    ),
    Case(
        "old-one-fails-to-be-deleted-after-replacement",
        (
            Run("up", spec(thing("a", v=1, replaceOn=["v"], failDelete="in use"))),
            Run("up", spec(thing("a", v=2, replaceOn=["v"]))),
            Run("preview"),
            Run("up"),
        ),
    ),
    Case(
        "delete-fails",
        (
            Run("up", spec(thing("a"), thing("b", failDelete="in use", v=ref("a")))),
            Run("destroy"),
            Run("up", spec(thing("a"), thing("b", v=ref("a")))),
            Run("destroy"),
        ),
    ),
    Case(
        "initialization-fails",
        (
            Run("up", spec(thing("a", v=1, failInit="not healthy"))),
            Run("preview"),
            Run("up"),
            Run("up", spec(thing("a", v=1))),
            Run("up --expect-no-changes"),
        ),
    ),
    Case(
        "check-fails",
        (
            Run("preview", spec(thing("a", failCheck="not so"))),
            Run("up"),
        ),
    ),
)
