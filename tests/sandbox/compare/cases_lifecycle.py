"""Cases of the ordinary life of resources: create, update, replace, delete, refresh."""

from __future__ import annotations

from tests.sandbox.compare.case import Case, Run, component, dynamic, ref, secret, spec, thing

_CHAIN = spec(
    thing("a", v=1, replaceOn=["v"]),
    thing("b", v=ref("a"), replaceOn=["v"]),
    thing("c", v=ref("b")),
)
_CHAIN_CHANGED = spec(
    thing("a", v=2, replaceOn=["v"]),
    thing("b", v=ref("a"), replaceOn=["v"]),
    thing("c", v=ref("b")),
)

LIFECYCLE = (
    Case(
        "create-preview-up-unchanged-destroy",
        (
            Run("preview", spec(thing("a", v=1), thing("b", w="x"), out=ref("a"))),
            Run("up"),
            Run("preview --expect-no-changes"),
            Run("up --expect-no-changes"),
            Run("destroy"),
        ),
    ),
    Case(
        "update-in-place",
        (
            Run("up", spec(thing("a", v=1, keep="k"))),
            Run("preview", spec(thing("a", v=2, keep="k", new=True))),
            Run("preview --expect-no-changes"),
            Run("up"),
        ),
    ),
    Case(
        "update-without-detailed-diff",
        (
            Run("up", spec(thing("a", v=1, diffStyle="keys"))),
            Run("up", spec(thing("a", v=2, diffStyle="keys"))),
        ),
    ),
    Case(
        "update-with-unknown-diff",
        (
            Run("up", spec(thing("a", v={"x": [1, 2]}, s=secret("a"), diffStyle="unknown"))),
            Run("up", spec(thing("a", v={"x": [1, 3]}, s=secret("b"), diffStyle="unknown"))),
            Run("up"),
        ),
    ),
    Case(
        "replace-create-before-delete",
        (
            Run("up", spec(thing("a", v=1, replaceOn=["v"]), thing("z"))),
            Run("preview", spec(thing("a", v=2, replaceOn=["v"]), thing("z"))),
            Run("up", ordered=True),
        ),
    ),
    Case(
        "replace-delete-before-create-by-provider",
        (
            Run("up", spec(thing("a", v=1, replaceOn=["v"], dbr=True))),
            Run("preview", spec(thing("a", v=2, replaceOn=["v"], dbr=True))),
            Run("up", ordered=True),
        ),
    ),
    Case(
        "replace-delete-before-create-by-option",
        (
            Run("up", spec(thing("a", {"delete_before_replace": True}, v=1, replaceOn=["v"]))),
            Run(
                "up",
                spec(thing("a", {"delete_before_replace": True}, v=2, replaceOn=["v"])),
                ordered=True,
            ),
        ),
    ),
    Case(
        "replace-option-overrules-provider",
        (
            Run(
                "up",
                spec(thing("a", {"delete_before_replace": False}, v=1, replaceOn=["v"], dbr=True)),
            ),
            Run(
                "up",
                spec(thing("a", {"delete_before_replace": False}, v=2, replaceOn=["v"], dbr=True)),
                ordered=True,
            ),
        ),
    ),
    Case(
        "replace-chain-create-before-delete",
        (
            Run("up", _CHAIN, ordered=True),
            Run("preview", _CHAIN_CHANGED),
            Run("up", ordered=True),
            Run("destroy", ordered=True),
        ),
    ),
    Case(
        "replace-chain-delete-before-create",
        (
            Run(
                "up",
                spec(
                    thing("a", v=1, replaceOn=["v"], dbr=True),
                    thing("b", v=ref("a"), replaceOn=["v"]),
                    thing("c", v=ref("b")),
                    thing("d", {"depends_on": ["a"]}, v=1),
                ),
            ),
            Run(
                "preview",
                spec(
                    thing("a", v=2, replaceOn=["v"], dbr=True),
                    thing("b", v=ref("a"), replaceOn=["v"]),
                    thing("c", v=ref("b")),
                    thing("d", {"depends_on": ["a"]}, v=1),
                ),
            ),
            Run("up", ordered=True),
        ),
    ),
    Case(
        "replace-delete-first-and-dependent-removed",
        (
            Run(
                "up",
                spec(
                    thing("a", v=1, replaceOn=["v"], dbr=True),
                    thing("b", v=ref("a"), replaceOn=["v"]),
                ),
            ),
            Run("up", spec(thing("a", v=2, replaceOn=["v"], dbr=True)), ordered=True),
        ),
    ),
    Case(
        "replace-on-changes",
        (
            Run("up", spec(thing("a", {"replace_on_changes": ["v"]}, v=1, w=1))),
            Run("up", spec(thing("a", {"replace_on_changes": ["v"]}, v=1, w=2))),
            Run("preview", spec(thing("a", {"replace_on_changes": ["v"]}, v=2, w=2))),
            Run("up", ordered=True),
            Run("up", spec(thing("a", {"replace_on_changes": ["*"]}, v=2, w=3))),
        ),
    ),
    Case(
        "delete-removed-resources-in-order",
        (
            Run("up", _CHAIN),
            Run("preview", spec()),
            Run("up", ordered=True),
        ),
    ),
    Case(
        "dependency-chain-with-unknowns",
        (
            Run("preview", _CHAIN),
            Run("up", spec(thing("a", v=1), thing("b", v=ref("a")), out=ref("b"))),
            Run("preview", spec(thing("a", v=2), thing("b", v=ref("a")), out=ref("b"))),
            Run("up"),
        ),
    ),
    Case(
        "dynamic-provider",
        (
            Run("preview", spec(dynamic("d", v=1), thing("t", v=ref("d")))),
            Run("up"),
            Run("up --expect-no-changes"),
            Run("up", spec(dynamic("d", v=2), thing("t", v=ref("d")))),
            Run("up", spec(dynamic("d", label="other", v=2), thing("t", v=ref("d")))),
            Run("destroy"),
        ),
    ),
    Case(
        "dynamic-provider-delete-before-replace",
        (
            Run("up", spec(dynamic("d", dbr=True))),
            Run("up", spec(dynamic("d", dbr=True, label="e"))),
        ),
    ),
    Case(
        "dynamic-provider-secrets",
        (
            Run(
                "up",
                spec(dynamic("d", s=secret("sesame")), out=ref("d", "s")),
                config={"cmp:k": {"encrypt": "v"}},
            ),
            Run("up", spec(dynamic("d", s=secret("open")), out=ref("d", "s"))),
        ),
    ),
    Case(
        "dynamic-provider-unknown-diff",
        (
            Run("up", spec(dynamic("d", diffStyle="unknown", v=1))),
            Run("up", spec(dynamic("d", diffStyle="unknown", v=2))),
            Run("up"),
        ),
    ),
    Case(
        "dynamic-provider-failures",
        (
            Run("preview", spec(dynamic("d", failCheck="not so"))),
            Run("up", spec(dynamic("d", failCreate="no room"))),
            Run("up", spec(dynamic("d"))),
            Run("up", spec(dynamic("d", failUpdate="stuck"))),
        ),
    ),
    Case(
        "refresh-without-drift",
        (
            Run("up", spec(thing("a", v=1), dynamic("d"))),
            Run("refresh"),
            Run("refresh --expect-no-changes"),
            Run("preview --refresh"),
        ),
    ),
    Case(
        "refresh-with-drift",
        (
            Run("up", spec(thing("a", v=1), thing("b", v=ref("a")), out=ref("b"))),
            Run("refresh --preview-only", store={"a-1": {"v": 9}}),
            Run("preview"),
            Run("preview --refresh"),
            Run("refresh"),
            Run("preview"),
            Run("up"),
        ),
    ),
    Case(
        "refresh-with-drift-of-inputs",
        (
            Run("up", spec(thing("a", v=1, readInputs=True))),
            Run("refresh", store={"a-1": {"v": 9, "readInputs": True}}),
            Run("up"),
        ),
    ),
    Case(
        "refresh-finds-a-resource-gone",
        (
            Run("up", spec(thing("a", v=1), thing("b", v=ref("a")), thing("c"))),
            Run("preview --refresh", store={"a-1": None}),
            Run("refresh"),
            Run("preview"),
            Run("up"),
        ),
    ),
    Case(
        "up-with-refresh-repairs-drift",
        (
            Run("up", spec(thing("a", v=1), thing("b", w=1))),
            Run("up --refresh", store={"a-1": {"v": 3}, "b-1": None}),
            Run("up --refresh --expect-no-changes"),
        ),
    ),
    Case(
        "refresh-dynamic-drift-and-gone",
        (
            Run("up", spec(dynamic("d", v=1), dynamic("e", v=1))),
            Run("refresh", store={"d": {"label": "d", "v": 7}, "e": None}),
            Run("up"),
        ),
    ),
    Case(
        "refresh-fails",
        (
            Run("up", spec(thing("a", v=1, failRead="unreachable"), thing("b"))),
            Run("refresh"),
            Run("preview --refresh"),
        ),
    ),
    Case(
        "components-with-parents",
        (
            Run(
                "up",
                spec(
                    component("outer"),
                    component("inner", {"parent": "outer"}),
                    thing("leaf", {"parent": "inner"}, v=1),
                    {"kind": "outputs", "name": "inner", "props": {"leaf": ref("leaf")}},
                    {"kind": "outputs", "name": "outer", "props": {}},
                ),
            ),
            Run("preview --expect-no-changes"),
            Run(
                "up",
                spec(
                    component("outer"),
                    component("inner", {"parent": "outer"}),
                    thing("leaf", {"parent": "inner"}, v=2),
                    {"kind": "outputs", "name": "inner", "props": {"leaf": 5}},
                    {"kind": "outputs", "name": "outer", "props": {}},
                ),
            ),
            Run("destroy", ordered=True),
        ),
    ),
    Case(
        "depends-on-a-component",
        (
            Run(
                "up",
                spec(
                    component("c"),
                    thing("x", {"parent": "c"}, v=1),
                    thing("y", {"depends_on": ["c"]}, v=1),
                ),
            ),
            Run("destroy", ordered=True),
        ),
    ),
)
