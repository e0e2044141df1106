"""The stack files: the sandbox as it is, the examples once their images are pinned."""

import json
from typing import Any, Final

import pytest
import yaml
from pydantic import ValidationError

from components.job_specs import job_specs
from components.naming import Stack
from components.settings import SettingsError, parse
from components.settings.configuration_page import PAGE, options, page
from components.settings.model import FlistsSettings, KernelsSettings, UsersSettings
from sync.contract.layout import JOBS, Job
from sync.contract.spec import FlistsSpec, KernelsSpec, UsersSpec, canonical
from sync.contract.spec import parse as parse_spec
from tests.program.declared import (
    PROJECT,
    STACKS,
    as_pulumi_gives,
    declare,
    pinned_images,
    stack_file,
)

TOKEN = {"CLOUDFLARE_API_TOKEN": "t" * 40}
EXAMPLES = ("example-records", "example-wildcard")
# What a spec takes from elsewhere in the settings, or is the same for all.
DERIVED: Final = {
    "version",
    "job",
    "stack",
    "sources",
    "sources_zdb",
    "local_zdb",
    "local_zdb_memory_bytes",
    "memory_limit_mb",
    "publish_backend",
}


def test_the_sandbox_declares_a_whole_mirror() -> None:
    declared = declare(stack_file("sandbox"), "sandbox", TOKEN)
    assert set(declared.containers()) == {
        *("zdb", "hub", "bootstrap", "caddy", "gate"),
        *("users", "kernels", "flists"),
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_lacks_nothing_but_its_images(name: str) -> None:
    config = as_pulumi_gives(stack_file(name))
    with pytest.raises(SettingsError) as caught:
        parse(config, environment=TOKEN)
    problems = {problem.key: problem for problem in caught.value.problems}
    assert set(problems) == {"images"}
    assert "gridhub pin-images" in problems["images"].remedy


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_with_pinned_images_declares_a_mirror(name: str) -> None:
    config = {**stack_file(name), "gridhub:images": pinned_images()}
    declared = declare(config, name, TOKEN)
    assert {"zdb", "users", "flists"} <= set(declared.containers())
    assert declared.outputs["dnsRecords"]


@pytest.mark.parametrize("name", ["sandbox", *EXAMPLES])
def test_a_stack_file_says_what_it_is_for_and_holds_nothing_but_settings(name: str) -> None:
    text = (STACKS / f"Pulumi.{name}.yaml").read_text()
    assert text.startswith("#")
    assert {"config"} <= set(yaml.safe_load(text)) <= {"config", "encryptionsalt"}


def test_the_page_is_what_the_settings_say() -> None:
    assert PAGE.read_text() == page(), "run `gridhub config docs`"


def test_the_project_gives_the_cli_no_default_that_it_could_write_into_a_stack_file() -> None:
    # A key without one would be required of every stack, so there is none at all.
    assert "config" not in yaml.safe_load((PROJECT / "Pulumi.yaml").read_text())


def test_defaults_that_the_cli_once_wrote_into_a_stack_file_change_nothing() -> None:
    """The project had a schema: `{}` for a section, nothing for what is unset, else the default."""
    written = {
        f"gridhub:{option.path}": "{}" if option.section else _as_config(option.default)
        for option in options()
        if "." not in option.path
    }
    needed = {key: json.dumps(value) for key, value in _required().items()}
    needed["gridhub:domain"] = "grid.example.org"
    assert parse({**written, **needed}) == parse(needed)


def _as_config(default: str | None) -> str:
    value = json.loads(default or "null")
    return value if isinstance(value, str) else json.dumps(value)


def _required() -> dict[str, Any]:
    return {
        "gridhub:publicAddresses": {"ipv4": ["203.0.113.10"]},
        "gridhub:images": pinned_images(),
        "gridhub:acme": {"email": "operator@example.org"},
    }


def test_every_option_is_described_in_a_sentence() -> None:
    for option in options():
        assert option.description.endswith("."), option.path
        assert option.description[0] in "`0" or option.description[0].isupper(), option.path


def test_what_an_operator_may_set_of_a_job_is_all_that_its_spec_has() -> None:
    pairs: list[tuple[type[Any], type[Any]]] = [
        (UsersSettings, UsersSpec),
        (KernelsSettings, KernelsSpec),
        (FlistsSettings, FlistsSpec),
    ]
    for settings, spec in pairs:
        settable = set(settings.model_fields) - {"enabled", "rewrite_backend"}
        assert settable == set(spec.model_fields) - DERIVED


def test_each_job_knows_the_memory_that_its_container_has() -> None:
    limits = {job: {"memoryMb": number} for job, number in zip(JOBS, (640, 320, 1280), strict=True)}
    config = as_pulumi_gives(
        {**_required(), "gridhub:domain": "grid.example.org", "gridhub:limits": limits}
    )
    for spec in job_specs(Stack("s", parse(config))):
        assert spec.memory_limit_mb == limits[spec.job]["memoryMb"]


@pytest.mark.parametrize("job", JOBS)
def test_a_spec_of_a_release_that_named_no_memory_has_the_containers_default(job: Job) -> None:
    config = as_pulumi_gives({**_required(), "gridhub:domain": "grid.example.org"})
    (spec,) = [spec for spec in job_specs(Stack("s", parse(config))) if spec.job == job]
    earlier = spec.model_dump(mode="json", exclude={"memory_limit_mb"})
    assert parse_spec(earlier).memory_limit_mb == spec.memory_limit_mb


def test_the_defaults_of_a_job_are_its_specs_own() -> None:
    config = as_pulumi_gives({**_required(), "gridhub:domain": "grid.example.org"})
    users, kernels, flists = job_specs(Stack("s", parse(config)))
    assert isinstance(users, UsersSpec)
    assert isinstance(kernels, KernelsSpec)
    assert isinstance(flists, FlistsSpec)
    for spec in (users, kernels, flists):
        for name, info in type(spec).model_fields.items():
            if name not in DERIVED:
                assert getattr(spec, name) == info.get_default(), (spec.job, name)
    assert users.local_zdb_memory_bytes == flists.local_zdb_memory_bytes == 4096 << 20
    assert [spec.memory_limit_mb for spec in (users, kernels, flists)] == [512, 256, 1024]
    assert users.publish_backend is not None
    assert users.publish_backend.host == "hub.grid.example.org"
    assert users.sources == ["https://hub.threefold.me", "https://hub.grid.tf"]
    assert kernels.sources == ["https://bootstrap.grid.tf"]
    names = ["hub.threefold.me:9900/default", "hub.grid.tf:9900/default"]
    assert [str(endpoint) for endpoint in flists.sources] == names
    assert users.sources_zdb == flists.sources


def test_a_spec_is_read_by_its_own_names_and_not_by_a_stack_files() -> None:
    values = {"job": "kernels", "stack": "s", "sources": ["http://b.example"]}
    assert b'"retention_days":3.0' in canonical(parse_spec({**values, "retention_days": 3}))
    with pytest.raises(ValidationError, match="retentionDays"):
        parse_spec({**values, "retentionDays": 3})


def test_a_single_name_of_the_master_is_a_list_of_one() -> None:
    single = {"hub": "https://h.example/", "bootstrap": "http://b.example:8080"}
    lists = {"hub": ["https://h.example"], "bootstrap": ["http://b.example:8080"]}
    zdb = {"host": "z.example", "port": 9901}
    domain = {"gridhub:domain": "grid.example.org"}
    given = [
        parse(as_pulumi_gives({**_required(), **domain, "gridhub:source": source}))
        for source in ({**single, "zdb": zdb}, {**lists, "zdb": [zdb]})
    ]
    assert given[0].source == given[1].source
    assert given[0].source.hub == ["https://h.example"]
    assert [endpoint.port for endpoint in given[0].source.zdb] == [9901]


def test_the_output_as_source_is_another_mirrors_source() -> None:
    shown = declare(stack_file("sandbox"), "sandbox", TOKEN).outputs["asSource"]
    domain = {"gridhub:domain": "grid.example.org"}
    source = parse(as_pulumi_gives({**_required(), **domain, "gridhub:source": shown})).source
    assert (source.hub, source.bootstrap) == (shown["hub"], shown["bootstrap"])
    assert [endpoint.model_dump() for endpoint in source.zdb] == shown["zdb"]


def test_preflight_looks_at_every_name_of_the_master() -> None:
    file = stack_file("sandbox")
    names = ["https://one.example", "http://two.example:81"]
    zdbs = [{"host": "one.example"}, {"host": "three.example", "port": 9901}]
    file["gridhub:source"] = {"hub": names, "bootstrap": names[:1], "zdb": zdbs}
    declared = declare(file, "sandbox", TOKEN)
    preflight = declared.resources["preflight"]
    upstream = preflight.inputs["upstream"]
    seen = [(one["name"], one["host"], int(one["port"])) for one in upstream]
    # Each name of the 0-db that is copied is asked how much it holds.
    assert [one.get("namespace") for one in upstream] == [None] * 3 + ["default"] * 2
    assert seen == [
        ("bootstrap", "one.example", 443),
        ("hub", "one.example", 443),
        ("hub", "two.example", 81),
        ("zdb", "one.example", 9900),
        ("zdb", "three.example", 9901),
    ]


def test_a_part_of_a_section_that_is_set_leaves_the_others_at_their_own_defaults() -> None:
    config = {
        "gridhub:domain": "grid.example.org",
        "gridhub:publicAddresses": {"ipv4": ["203.0.113.10"]},
        "gridhub:acme": {"email": "operator@example.org"},
        "gridhub:images": pinned_images(),
    }
    untouched = parse(as_pulumi_gives(config))
    for service in type(untouched.limits).model_fields:
        edit = {**config, "gridhub:limits": {service: {"processes": 300}}}
        limits = getattr(parse(as_pulumi_gives(edit)).limits, service)
        assert limits.memory_mb == getattr(untouched.limits, service).memory_mb, service
        assert limits.processes == 300
    edit = {**config, "gridhub:kernels": {"http": {"requestsPerSecond": 5.0}}}
    assert parse(as_pulumi_gives(edit)).kernels.http.connections == 8


def test_the_page_shows_each_services_own_memory() -> None:
    shown = {option.path: option.default for option in options()}
    assert shown["limits.zdb.memoryMb"] == "4096"
    assert shown["limits.kernels.memoryMb"] == "256"
    assert shown["kernels.http.connections"] == "8"
