"""The three modes, and the steps between them that are refused."""

from typing import Any

import pytest

from sync.contract.layout import HUB_PUBLIC, JOB_UIDS, UID_HUB
from sync.providers.mode_guard import ModeGuardProvider, ModeOutputs, refused
from tests.program.declared import Declared, declare, production

JOBS = {"users", "kernels", "flists"}


def _declared(mode: str, **more: Any) -> Declared:
    extra = {f"gridhub:{key}": value for key, value in more.items()}
    return declare({**production(), "gridhub:mode": mode, **extra}, "prod")


def _hub_file(declared: Declared) -> dict[str, Any]:
    """Return the hub's configuration as Python would read it."""
    (file,) = declared.resources["hub-config"].inputs["files"]
    names: dict[str, Any] = {}
    exec(file["content"], names)
    return dict(names["config"])


def _owners(declared: Declared) -> dict[str, float]:
    folders = declared.resources["data-root-directories"].inputs["directories"]
    return {entry["path"]: entry["uid"] for entry in folders}


def test_a_mirror_is_read_only_and_runs_the_jobs() -> None:
    declared = _declared("mirror")
    config = _hub_file(declared)
    assert config["readonly"] is True
    assert config["backend-internal-pass"] == ""
    assert config["guest-token"] is None
    assert set(declared.containers()) >= JOBS
    assert _owners(declared)[HUB_PUBLIC] == JOB_UIDS["users"]
    assert "hubSeed" not in declared.outputs


@pytest.mark.parametrize("mode", ["detached", "standalone"])
def test_a_writable_hub_has_its_own_keys_and_no_jobs(mode: str) -> None:
    declared = _declared(mode)
    config = _hub_file(declared)
    assert config["readonly"] is False
    assert config["authentication"] is True
    assert config["backend-internal-pass"] == ""
    assert config["threebot-privatekey"] == "canary-hubKey"
    assert config["threebot-seed"] == b"seed-seed-seed-seed-seed-seed-00"
    assert len(config["threebot-seed"]) == 32
    assert config["guest-token"] is None
    assert not JOBS & set(declared.containers())
    assert not [entry for entry in declared.resources.values() if entry.type.endswith("Sync")]
    assert _owners(declared)[HUB_PUBLIC] == UID_HUB
    assert declared.outputs["hubSeed"]


def test_a_writable_hub_may_write_what_it_serves() -> None:
    hub = _declared("detached").containers()["hub"]
    volumes = {volume["containerPath"]: volume for volume in hub["volumes"]}
    assert volumes["/public"]["readOnly"] is False


def test_guests_are_let_in_only_where_the_stack_says_so() -> None:
    config = _hub_file(_declared("detached", hub={"guestAccess": True}))
    assert config["guest-token"] == "canary-guestToken"


def test_the_hubs_file_is_literals_only_whatever_the_names_in_it() -> None:
    names = {"o'hara": 'x"y', "b": "{evil}"}
    with pytest.raises(Exception, match="usersMap"):
        _declared("detached", hub={"usersMap": names})
    config = _hub_file(_declared("detached", hub={"usersMap": {"tf": "o'h\"a\\nra.3bot"}}))
    assert config["threebot-users-map"] == {"tf": "o'h\"a\\nra.3bot"}


def test_the_hubs_keys_are_upstreams() -> None:
    assert set(_hub_file(_declared("mirror"))) == {
        "authentication",
        "backend-internal-host",
        "backend-internal-name",
        "backend-internal-pass",
        "backend-internal-port",
        "backend-public-host",
        "backend-public-name",
        "backend-public-port",
        "debug",
        "guest-token",
        "ignored-files",
        "iyo-callback",
        "iyo-clientid",
        "iyo-secret",
        "listen-addr",
        "listen-port",
        "official-repositories",
        "public-website",
        "readonly",
        "threebot-appid",
        "threebot-privatekey",
        "threebot-seed",
        "threebot-users-map",
        "userdata-root-path",
        "workdir-root-path",
        "zflist-bin",
    }


def _guarded(before: str, after: str, confirmed: int = 0, already: int = 0) -> str | None:
    return refused(ModeOutputs(mode=before, confirmation=already), after, confirmed)


@pytest.mark.parametrize("before", ["detached", "standalone"])
def test_the_way_back_to_a_mirror_is_refused_with_the_way_to_confirm_it(before: str) -> None:
    reason = _guarded(before, "mirror")
    assert reason is not None
    assert "uploads" in reason
    assert "modeConfirmation 1" in reason


def test_a_confirmation_is_good_for_one_way_back() -> None:
    assert _guarded("detached", "mirror", confirmed=1) is None
    again = _guarded("detached", "mirror", confirmed=1, already=1)
    assert again is not None
    assert "modeConfirmation 2" in again


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("mirror", "detached"),
        ("mirror", "mirror"),
        ("detached", "detached"),
        ("detached", "standalone"),
        ("standalone", "detached"),
    ],
)
def test_other_steps_are_ordinary(before: str, after: str) -> None:
    assert _guarded(before, after) is None


def test_a_mirror_becomes_detached_not_standalone() -> None:
    reason = _guarded("mirror", "standalone")
    assert reason is not None
    assert "detached" in reason


def test_a_new_stack_may_have_any_mode() -> None:
    for mode in ("mirror", "detached", "standalone"):
        assert refused(ModeOutputs(), mode, 0) is None


def test_the_guard_refuses_in_check_so_that_a_preview_shows_it() -> None:
    provider = ModeGuardProvider()
    olds = {"stack": "s", "mode": "detached", "confirmation": 0.0}
    news = {"stack": "s", "mode": "mirror", "confirmation": 0.0}
    (failure,) = provider.check(olds, news).failures
    assert failure.property == "gridhub:mode"


def test_the_guard_keeps_the_first_name_of_a_stack_that_was_renamed() -> None:
    provider = ModeGuardProvider()
    olds = {"stack": "first", "mode": "mirror", "confirmation": 0.0}
    news = {"stack": "second", "mode": "mirror", "confirmation": 0.0}
    # As inputs are what a preview of an update tells, the name is right there as well.
    for mode in ("mirror", "detached"):
        assert provider.check(olds, {**news, "mode": mode}).inputs["stack"] == "first"
    assert provider.check({}, news).inputs["stack"] == "second", "a new stack has its own name"
    assert not provider.diff("first/mode", olds, news).changes


def test_what_a_renamed_stack_has_on_its_host_keeps_its_names() -> None:
    renamed = declare(production(), "second", first_name="first")
    before = declare(production(), "first")
    assert {name: entry.inputs for name, entry in renamed.resources.items() if name != "mode"} == {
        name: entry.inputs for name, entry in before.resources.items() if name != "mode"
    }
    assert renamed.outputs == before.outputs


def test_the_guard_remembers_the_modes_a_stack_had() -> None:
    provider = ModeGuardProvider()
    props = {"stack": "s", "mode": "mirror", "confirmation": 0, "history": None}
    created = provider.create(props)
    assert created.id == "s/mode"
    assert created.outs is not None
    updated = provider.update("s/mode", created.outs, {**props, "mode": "detached"}).outs
    assert updated is not None
    assert updated["history"] == ["mirror", "detached"]
    assert not provider.diff("s/mode", updated, {**props, "mode": "detached"}).changes
    assert provider.diff("s/mode", updated, {**props, "confirmation": 1}).changes is not False
    assert provider.read("s/mode", updated).outs == updated
