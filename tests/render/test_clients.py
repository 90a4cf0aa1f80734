# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What playbooks/clients.yml prints: configuration that parses, this installation's URL, and no key unless asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

PLAYBOOKS = Path(__file__).resolve().parents[2] / "playbooks"
KEY = "mk_dev_abcdefghijkl_" + "S" * 43 + "_00000000"


def printed(**options) -> str:
    """The text, with the variables that the play itself has."""
    loader = DataLoader()
    play = loader.load_from_file(str(PLAYBOOKS / "clients.yml"), trusted_as_template=True)[0]
    shown = options.get("mcpstack_clients_show_key", False)
    variables = {
        **loader.load_from_file(str(PLAYBOOKS / "vars/wiring.yml"), trusted_as_template=True),
        **play["vars"],
        "inventory_hostname": "ai-1",
        "_mcpstack_clients_key": KEY if shown else "YOUR-KEY",
        **options,
    }
    templar = Templar(loader=loader, variables=variables)
    return str(
        templar.template(
            trust_as_template((PLAYBOOKS / "templates/clients.txt.j2").read_text()),
            overrides={"trim_blocks": True, "lstrip_blocks": True},
        )
    )


def configurations(text: str) -> list[dict]:
    """Every block of JSON in it."""
    return [json.loads(block) for block in re.findall(r"^\{\n.*?^\}$", text, re.M | re.S)]


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, "https://localhost"),
        ({"mcpstack_server_names": ["ai.example.org", "b.example.org"]}, "https://ai.example.org"),
        (
            {"mcpstack_server_names": ["ai.example.org"], "mcpstack_edge_https_port": 8443},
            "https://ai.example.org:8443",
        ),
        ({"mcpstack_registry_public_url": "https://x.example.org:9443"}, "https://x.example.org:9443"),
        ({"mcpstack_registry_public_url": ""}, "https://localhost"),
    ],
)
def test_every_client_gets_the_url_of_the_installation(options, url):
    text = printed(**options)
    code, cursor, desktop = configurations(text)
    assert code["servers"]["mcpstack"]["url"] == f"{url}/mcp"
    assert cursor["mcpServers"]["mcpstack"]["url"] == f"{url}/mcp"
    assert desktop["mcpServers"]["mcpstack"]["args"][2] == f"{url}/mcp"
    assert f"OPENAI_BASE_URL={url}/v1 " in text
    assert f" {url}/v1/models\n" in text


@pytest.mark.parametrize("source", ["internal", "files", "acme"])
def test_the_ca_is_named_where_clients_do_not_know_it(source):
    text = printed(mcpstack_pki_edge_source=source)
    assert ("mcpstack-ca.crt" in text) is (source == "internal")
    environment = configurations(text)[2]["mcpServers"]["mcpstack"]["env"]
    assert ("NODE_EXTRA_CA_CERTS" in environment) is (source == "internal")


def test_the_key_is_shown_only_when_asked_for():
    assert KEY not in printed()
    assert "/run/mcpstack/secrets/operator/operator-api-key/current" in printed()
    text = printed(mcpstack_clients_show_key=True)
    assert f"Bearer {KEY}" in text
    assert "YOUR-KEY" not in text


def test_the_key_is_read_without_a_trace_and_only_then():
    tasks = yaml.safe_load((PLAYBOOKS / "clients.yml").read_text())[0]["tasks"]
    reading = [task for task in tasks if "ansible.builtin.slurp" in task]
    assert len(reading) == 1
    assert reading[0]["no_log"] is True
    assert reading[0]["when"] == "_mcpstack_clients_show_key | bool"
