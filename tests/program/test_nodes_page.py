"""docs/nodes.md and the outputs that it names agree."""

import re

from tests.program.declared import PROJECT, declare, production

PAGE = (PROJECT / "docs" / "nodes.md").read_text()


def test_a_node_that_takes_the_outputs_asks_this_mirror_for_everything() -> None:
    outputs = declare(production(), "prod").outputs
    assert outputs["zosConfig"] == {
        "flist_url": "redis://hub.grid.example.org:9900",
        "hub_storage": "zdb://hub.grid.example.org:9900",
        "hub_urls": ["https://hub.grid.example.org"],
    }
    assert outputs["workloadFlistUrl"] == "https://hub.grid.example.org/REPOSITORY/NAME.flist"


def test_ports_and_an_ipv6_address_stand_in_urls_as_they_must() -> None:
    config = {
        **production(),
        "gridhub:ports": {"https": 8443, "zdb": 9901},
        "gridhub:zdb": {"publishHost": "2001:db8::10"},
    }
    outputs = declare(config, "prod").outputs
    assert outputs["zosConfig"]["hub_storage"] == "zdb://[2001:db8::10]:9901"
    assert outputs["zosConfig"]["hub_urls"] == ["https://hub.grid.example.org:8443"]
    assert outputs["urls"]["zdb"] == "zdb://[2001:db8::10]:9901"


def test_the_page_explains_each_key_and_each_output() -> None:
    outputs = declare(production(), "prod").outputs
    for key in outputs["zosConfig"]:
        assert f"| `{key}` |" in PAGE
    for name in re.findall(r"pulumi stack output (\w+)", PAGE):
        assert name in outputs


def test_the_page_says_first_that_a_mirror_alone_changes_nothing() -> None:
    assert PAGE.split("\n\n")[1].startswith("A mirror by itself changes nothing for any node.")
