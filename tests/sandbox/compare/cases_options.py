"""Cases of options, providers, secrets, failures, targets and the commands around them."""

from __future__ import annotations

from tests.sandbox.compare.case import (
    Case,
    Run,
    component,
    dynamic,
    provider,
    ref,
    secret,
    spec,
    thing,
)

_STACK_URN = "urn:pulumi:dev::cmp::"
_THING = _STACK_URN + "compare:index:Thing::"

_PROTECTED = {"protect": True, "depends_on": ["b"]}

OPTIONS = (
    Case(
        "explicit-provider",
        (
            Run("preview", spec(provider("p", region="north"), thing("a", {"provider": "p"}, v=1))),
            Run("up"),
            Run("up --expect-no-changes"),
            Run(
                "up", spec(provider("p", region="north", x="y"), thing("a", {"provider": "p"}, v=1))
            ),
            Run("preview", spec(provider("p", region="south"), thing("a", {"provider": "p"}, v=1))),
            Run("up", ordered=True),
            Run("destroy", ordered=True),
        ),
    ),
    Case(
        "providers-of-a-component",
        (
            Run(
                "up",
                spec(
                    provider("p", region="north"),
                    component("c", {"providers": ["p"]}),
                    thing("a", {"parent": "c"}, v=1),
                    thing("b", v=1),
                ),
            ),
            Run("up --expect-no-changes"),
        ),
    ),
    Case(
        "provider-that-is-not-known-in-preview",
        (
            Run("up", spec(thing("t"), provider("p", x="y"), thing("a", {"provider": "p"}, v=1))),
            Run(
                "preview",
                spec(
                    thing("t"),
                    thing("u"),
                    provider("p", x=ref("u")),
                    thing("a", {"provider": "p"}, v=2),
                ),
            ),
            Run("up"),
        ),
    ),
    Case(
        "provider-previews-outputs",
        (
            Run(
                "preview",
                spec(
                    provider("p", supportsPreview="yes"),
                    thing("a", {"provider": "p"}, v=1),
                    thing("b", {"provider": "p"}, v=ref("a", "v"), w=ref("a")),
                ),
            ),
            Run("up"),
            Run(
                "preview",
                spec(
                    provider("p", supportsPreview="yes"),
                    thing("a", {"provider": "p"}, v=2),
                    thing("b", {"provider": "p"}, v=ref("a", "v"), w=ref("a")),
                ),
            ),
        ),
    ),
    Case(
        "provider-refuses-its-configuration",
        (Run("up", spec(provider("p", failConfigure="bad key"), thing("a", {"provider": "p"}))),),
    ),
    Case(
        "provider-that-takes-no-secrets",
        (
            Run(
                "up",
                spec(
                    provider("p", acceptSecrets="no"),
                    thing("a", {"provider": "p"}, s=secret({"x": 1}), l=[secret("q"), "r"]),
                ),
            ),
            Run("refresh"),
        ),
    ),
    Case(
        "secret-inputs-and-outputs",
        (
            Run(
                "up",
                spec(
                    thing("a", s=secret("hidden"), n={"deep": secret(7)}, open="yes"),
                    thing("b", derived={"$concat": [ref("a", "s"), "-x"]}),
                    out=ref("a", "s"),
                    plain=ref("a", "open"),
                ),
            ),
            Run("up --expect-no-changes"),
            Run("stack output --json", stdout=True),
            Run("stack output --json --show-secrets", stdout=True),
            Run("stack output out", stdout=True),
            Run("stack output missing"),
        ),
    ),
    Case(
        "secret-becomes-plain",
        (
            Run("up", spec(thing("a", s=secret("x")))),
            Run("up", spec(thing("a", s="x"))),
        ),
    ),
    Case(
        "additional-secret-outputs",
        (
            Run("up", spec(thing("a", {"additional_secret_outputs": ["computed"]}, v=1))),
            Run("up --expect-no-changes"),
            Run("up", spec(thing("a", {"additional_secret_outputs": ["computed"]}, v=2))),
        ),
    ),
    Case(
        "config-secrets",
        (
            Run(
                "up",
                spec(thing("a", p={"$config": "plain"}, s={"$configSecret": "hidden"})),
                config={"cmp:plain": "1", "cmp:hidden": {"encrypt": "sesame"}, "aws:region": "x"},
            ),
            Run("config get hidden", stdout=True),
            Run("config --json", stdout=True),
            Run("config --json --show-secrets", stdout=True),
            Run("config get nothing"),
        ),
    ),
    Case(
        "config-set-paths",
        (
            Run("config set --path names[0] x", spec(thing("a", o={"$configObject": "names"}))),
            Run("config set --path names[1] 5"),
            Run("config set --path opts.deep.on true"),
            Run("config set plain 7"),
            Run("config set other:key v"),
            Run("config set --secret hidden sesame"),
            Run("config get --path opts.deep.on", stdout=True),
            Run("config get opts", stdout=True),
            Run("config --json --show-secrets", stdout=True),
            Run("up"),
            Run("config rm plain"),
            Run("config rm --path names[0]"),
            Run("config --json", stdout=True),
        ),
    ),
    Case(
        "config-schema",
        (
            Run(
                "preview",
                spec(thing("a", v={"$config": "size"}, w={"$config": "mode"})),
                project={
                    "config": {
                        "size": {"type": "integer"},
                        "mode": {"type": "string", "default": "fast"},
                        "names": {"type": "array", "items": {"type": "string"}, "default": ["x"]},
                    }
                },
            ),
            Run("preview", config={"cmp:size": "many"}),
            Run("preview", config={"cmp:size": 3, "cmp:names": "no"}),
            Run("up", config={"cmp:size": 3, "cmp:unheard": "of"}),
        ),
    ),
    Case(
        "protect",
        (
            Run("up", spec(thing("b"), thing("a", _PROTECTED, v=1, replaceOn=["v"]))),
            Run("preview", spec(thing("b"), thing("a", _PROTECTED, v=2, replaceOn=["v"]))),
            Run("up"),
            Run("up", spec(thing("b"))),
            Run("destroy"),
            Run("up", spec(thing("b"), thing("a", {"depends_on": ["b"]}, v=1, replaceOn=["v"]))),
            Run("destroy"),
        ),
    ),
    Case(
        "protect-inherited-from-a-component",
        (
            Run("up", spec(component("c", {"protect": True}), thing("a", {"parent": "c"}))),
            Run("destroy"),
        ),
    ),
    Case(
        "retain-on-delete",
        (
            Run("up", spec(thing("a", {"retain_on_delete": True}, v=1, replaceOn=["v"]))),
            Run("up", spec(thing("a", {"retain_on_delete": True}, v=2, replaceOn=["v"]))),
            Run("up", spec()),
        ),
    ),
    Case(
        "ignore-changes",
        (
            Run("up", spec(thing("a", {"ignore_changes": ["v", "n.x"]}, v=1, w=1, n={"x": 1}))),
            Run(
                "up",
                spec(thing("a", {"ignore_changes": ["v", "n.x"]}, v=2, w=1, n={"x": 2})),
            ),
            Run(
                "up",
                spec(thing("a", {"ignore_changes": ["v", "n.x"]}, v=3, w=2, n={"x": 3, "y": 1})),
            ),
        ),
    ),
    Case(
        "aliases",
        (
            Run("up", spec(thing("a", v=1), thing("b", v=ref("a")))),
            Run("preview", spec(thing("c", {"aliases": ["a"]}, v=1), thing("b", v=ref("c")))),
            Run("up"),
            Run("up --expect-no-changes"),
            Run("up", spec(thing("c", v=1), thing("b", v=ref("c")))),
        ),
    ),
    Case(
        "aliases-of-a-parent",
        (
            Run("up", spec(component("p"), thing("p-kid", {"parent": "p"}, v=1))),
            Run(
                "up",
                spec(component("q", {"aliases": ["p"]}), thing("q-kid", {"parent": "q"}, v=1)),
            ),
            Run(
                "up",
                spec(
                    component("q"),
                    thing("q-kid", {"aliases": [{"name": "q-kid", "parent": "q"}]}, v=1),
                ),
            ),
        ),
    ),
    Case(
        "deleted-with",
        (
            Run("up", spec(thing("a"), thing("b", {"deleted_with": "a"}))),
            Run("destroy", ordered=True),
        ),
    ),
    Case(
        "custom-timeouts",
        (
            Run("up", spec(thing("a", {"custom_timeouts": {"create": "5m", "delete": "90s"}}))),
            Run("up", spec(thing("a", {"custom_timeouts": {"create": "1h30m"}}))),
        ),
    ),
    Case(
        "program-raises",
        (
            Run("up", spec(thing("a"), out="one")),
            Run("preview", spec(thing("a"), {"kind": "raise", "message": "boom"})),
            Run("up", spec(thing("a", v=2), {"kind": "raise", "message": "boom"}, out="two")),
        ),
    ),
    Case(
        "same-urn-twice",
        (Run("preview", spec(thing("a"), thing("a", {"depends_on": ["a"]}))),),
    ),
    Case(
        "messages",
        (
            Run(
                "preview",
                spec(
                    {"kind": "log", "message": "good to know"},
                    {"kind": "log", "level": "warn", "message": "take care"},
                    {"kind": "log", "level": "debug", "message": "not shown"},
                    {"kind": "print", "message": "printed"},
                    thing("a"),
                    {"kind": "log", "name": "a", "message": "about a"},
                ),
            ),
            Run("up", spec(thing("a"), {"kind": "log", "level": "error", "message": "wrong"})),
        ),
    ),
    Case(
        "defaults-by-check",
        (
            Run("up", spec(thing("a", defaulted=""))),
            Run("up --expect-no-changes"),
            Run("up", spec(thing("a", defaulted="mine"))),
        ),
    ),
    Case(
        "reads-and-functions",
        (
            Run("up", spec(thing("a", v=1))),
            Run(
                "up",
                spec(
                    thing("a", v=1),
                    thing("read", {"id": "a-1"}),
                    {"kind": "invoke", "name": "f", "props": {"x": 1}},
                ),
            ),
            Run("up", spec(thing("a", v=1))),
        ),
    ),
    Case(
        "stack-outputs",
        (
            Run("up", spec(thing("a"), one=1, two={"x": [True, None, "s"]}, three=secret("t"))),
            Run("preview", spec(thing("a"), one=2, four=ref("a"))),
            Run("up"),
            Run("stack output --json", stdout=True),
            Run("stack output four", stdout=True),
        ),
    ),
    Case(
        "stack-reference",
        (
            Run("up", spec(thing("a"), one=1, hidden=secret("t"))),
            Run(
                "up",
                spec(
                    {"kind": "stackref", "name": "organization/cmp/dev"},
                    thing("a", seen=ref("organization/cmp/dev", "outputs")),
                ),
            ),
        ),
    ),
    Case(
        "target-one",
        (
            Run("up", spec(thing("a", v=1), thing("b", v=1))),
            Run(f"preview --target {_THING}a", spec(thing("a", v=2), thing("b", v=2))),
            Run(f"up --target {_THING}a"),
            Run("up"),
        ),
    ),
    Case(
        "target-a-new-one-and-one-it-needs",
        (
            Run(f"up --target {_THING}b", spec(thing("a", v=1), thing("b", v=1), thing("c"))),
            Run(
                f"preview --target {_THING}d",
                spec(thing("b", v=1), thing("c"), thing("d", v=ref("c"))),
            ),
            Run(f"up --target {_THING}nope"),
        ),
    ),
    Case(
        "target-destroy",
        (
            Run("up", spec(thing("a", v=1), thing("b", v=ref("a")), thing("c"))),
            Run(f"destroy --target {_THING}c"),
            Run(f"destroy --target {_THING}a"),
            Run(f"refresh --target {_THING}b", store={"b-1": None}),
        ),
    ),
    Case(
        "locked-by-another",
        (
            Run("up", spec(thing("a")), store={"other.lock": {}}),
            Run("preview"),
            Run("destroy"),
            Run("cancel --yes"),
            Run("up"),
        ),
    ),
    Case(
        "export-and-import",
        (
            Run("up", spec(thing("a", s=secret("x"), v=1), component("c"))),
            Run("stack export --file @root/state.json"),
            Run("up", spec()),
            Run("stack import --file @root/state.json"),
            Run("preview", spec(thing("a", s=secret("x"), v=1), component("c"))),
            Run("stack rm --yes"),
            Run("destroy"),
            Run("stack rm --yes"),
            Run("stack select dev"),
        ),
    ),
    Case(
        "wrong-flags-and-names",
        (
            Run("preview --no-such-flag"),
            Run("preview --stack nope"),
            Run("no-such-command"),
            Run("stack select nope"),
            Run("stack init dev"),
            Run("up --diff --non-interactive"),
        ),
    ),
    Case(
        "resource-changes-its-kind",
        (
            Run("up", spec(thing("a", v=1), dynamic("d"))),
            Run("up", spec(dynamic("a", v=1), thing("d", v=1))),
        ),
    ),
)
