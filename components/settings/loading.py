"""From what the stack file says to `Settings`, or to every reason why not.

Pulumi hands the program one string per top-level key: plain text, or JSON where the stack file
holds a list or a mapping. Each key is checked on its own, so that one wrong key does not hide
another; the rules that span keys run on all that are right.
"""

import contextlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Final

from pulumi.runtime.config import (
    CONFIG,
    get_config_env,
    get_config_secret_keys_env,
    is_config_secret,
)
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from components.settings.model import Settings
from components.settings.problems import Problem, SettingsError, invalid, missing
from components.settings.rules import combination_problems

PROJECT: Final = "gridhub"
# What the provider takes (terraform-provider-cloudflare 5: internal/provider.go, ProviderSchema).
# It looks at its own configuration only; the environment's token would first fail at the API.
_API_TOKEN: Final = re.compile(r"[0-9A-Za-z_-]{40,80}")
# Control characters, line separators, zero-width blanks and the byte order mark.
_STRAY: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028\u2029\ufeff]")
_FIELDS: Final[dict[str, tuple[str, FieldInfo]]] = {
    str(info.alias): (name, info) for name, info in Settings.model_fields.items()
}


def load() -> Settings:
    """Read the running program's configuration; raise SettingsError with all that is wrong."""
    values = {**get_config_env(), **CONFIG.get()}
    secret_keys = {*get_config_secret_keys_env(), *filter(is_config_secret, values)}
    return parse(values, secret_keys, os.environ)


def parse(
    values: Mapping[str, Any],
    secret_keys: Collection[str] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Settings:
    """Return the settings in `values` (full keys, `gridhub:domain`) or raise SettingsError.

    values: as Pulumi gives them; keys of other projects are ignored. secret_keys: full keys whose
    value the stack file holds encrypted. environment: DOCKER_HOST fills host.docker, and a
    CLOUDFLARE_API_TOKEN makes dnsApiToken superfluous.
    """
    ours = {
        key.partition(":")[2]: value
        for key, value in sorted(values.items())
        if key.partition(":")[0] == PROJECT
    }
    # An empty value is written by hand, or by `pulumi config refresh` of an earlier program.
    given = {key: value for key, value in ours.items() if value not in ("", "{}", "null")}
    given |= _engine_of(environment, given)
    problems = [*_unknown(ours), *_plain_secrets(given, secret_keys)]
    right: dict[str, Any] = {}
    for key, (name, info) in _FIELDS.items():
        if key not in given and info.is_required():
            problems.append(missing(key, key))
            continue
        try:
            right[name] = _value(info, given[key]) if key in given else info.get_default()
        except ValidationError as error:
            problems += [invalid(key, detail) for detail in error.errors(include_url=False)]
        else:
            # Cloudflare's token has a form of its own, which is checked below.
            if not _is_secret(info):
                problems += _stray_characters(key, given.get(key))
    problems += _token_problems(right, environment)
    problems += combination_problems(right)
    if problems:
        raise SettingsError(problems)
    return Settings.model_construct(**right)


def _engine_of(environment: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the host setting with the environment's engine, where the stack names none."""
    host, engine = given.get("host", "{}"), environment.get("DOCKER_HOST")
    try:
        known = json.loads(host) if isinstance(host, str) else host
    except ValueError:
        return {}
    if not engine or not isinstance(known, dict) or "docker" in known:
        return {}
    return {"host": {**known, "docker": engine}}


def _token_problems(right: Mapping[str, Any], environment: Mapping[str, str]) -> Iterator[Problem]:
    """Yield what is wrong with Cloudflare's token, of the stack file or the environment.

    Its words never hold the token, nor a part of it.
    """
    dns = right.get("dns")
    if dns is None or dns.provider != "cloudflare" or "dns_api_token" not in right:
        return
    setting, variable = "dnsApiToken", "CLOUDFLARE_API_TOKEN"
    token = right["dns_api_token"] or environment.get(variable)
    if not token:
        remedy = f"`pulumi config set --secret {setting}`, or set {variable}"
        yield Problem(setting, "is required with dns.provider cloudflare", remedy)
    elif not _API_TOKEN.fullmatch(token):
        reason = (
            "is no API token of Cloudflare: one has 40 to 80 characters, all of them letters, "
            "digits, - or _ (no blank, no line break)"
        )
        remedy = "copy it again from My Profile > API Tokens; a Global API Key will not do"
        yield Problem(setting if right["dns_api_token"] else variable, reason, remedy)


def _unknown(given: Mapping[str, Any]) -> Iterator[Problem]:
    for key in given.keys() - _FIELDS.keys():
        near = get_close_matches(key, _FIELDS, n=1, cutoff=0.6)
        meant = f"did you mean `{near[0]}`? " if near else ""
        yield Problem(key, "is not a setting", f"{meant}docs/configuration.md lists them all")


def _plain_secrets(given: Mapping[str, Any], secret_keys: Collection[str]) -> Iterator[Problem]:
    for key, (_, info) in _FIELDS.items():
        if _is_secret(info) and key in given and f"{PROJECT}:{key}" not in secret_keys:
            remedy = f"`pulumi config set --secret {key}` and revoke the one that was readable"
            yield Problem(key, "is a secret in plain text", remedy)


def _is_secret(info: FieldInfo) -> bool:
    return info.json_schema_extra == {"secret": True}


def _stray_characters(path: str, given: Any) -> Iterator[Problem]:
    """Yield each text that holds what no editor shows: it came by a file or a paste of Windows."""
    value = given
    if isinstance(given, str):
        with contextlib.suppress(ValueError):
            value = json.loads(given)
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _stray_characters(f"{path}.{key}", one)
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _stray_characters(f"{path}.{number}", one)
    elif isinstance(value, str) and (found := _STRAY.search(value)):
        what = "a line end" if found[0] in "\r\n" else f"the character U+{ord(found[0]):04X}"
        yield Problem(path, f"holds {what}, which no value has", "set it anew, typed by hand")


def _value(info: FieldInfo, given: Any) -> Any:
    """Validate one top-level setting, strictly and by its camelCase keys: nowhere else again."""
    adapter: TypeAdapter[Any] = TypeAdapter(info.rebuild_annotation())
    schema, text = adapter.json_schema(), json.dumps(given)
    # Text stays text where the setting is text; elsewhere it is the JSON that Pulumi made.
    textual = any(one.get("type") == "string" for one in schema.get("anyOf", [schema]))
    if isinstance(given, str) and not textual:
        with contextlib.suppress(ValueError):
            json.loads(given)
            text = given
    return adapter.validate_json(text, strict=True, by_alias=True, by_name=False)
