#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: endpoint_probe
author:
  - mcpstack.platform maintainers (@mcpstack)
version_added: 0.1.0
short_description: Walk a user's way through the platform from outside
description:
  - Connects over TLS as a client would, checks the certificate, is refused without a key, lists the models, streams a
    chat completion and proves that it arrives piece by piece, asks over MCP for tools, and looks at what every class of answer
    tells.
  - Every step ends as C(pass), C(fail) or C(unknown). Only when all passed does the module succeed; all that did not
    pass is named at once with its fix.
  - In check mode nothing is sent and all steps are C(unknown), because what a deploy would start is not there yet.
extends_documentation_fragment:
  - mcpstack.platform.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  url:
    description: Base URL of the API, for example C(https://llm.example.org/v1).
    type: str
    required: true
  connect_to:
    description: Where to connect instead of the URL's host and port, as C(host:port).
    type: str
  server_name:
    description: Name to ask for in TLS and in the Host header, instead of the URL's host.
    type: str
  ca_file:
    description: CA certificates to verify with. Without it the system's are used.
    type: path
  api_key_file:
    description: File with the API key. The key appears in no result.
    type: path
    required: true
  model:
    description: Model to use. Without it the first one listed.
    type: str
  timeout:
    description: Seconds to wait for each answer, and between two parts of a stream.
    type: int
    default: 60
  expect:
    description: What the endpoint is expected to offer.
    type: dict
    default: {}
    suboptions:
      days_left:
        description: Days the certificate must still be valid.
        type: int
        default: 1
      http_port:
        description: Port of plain HTTP, which must redirect; V(0) when it is not published.
        type: int
        default: 80
      embeddings:
        description: Whether embeddings are offered.
        type: bool
        default: true
      embedding_model:
        description: Model for embeddings. Without it the model of the completion.
        type: str
      mcp:
        description: Path of the MCP endpoint on the same host; empty when there is none. The key needs the scope C(tools:read).
        type: str
        default: /mcp
      private_paths:
        description: Paths that must answer 404 from outside.
        type: list
        elements: str
        default: [/metrics, /ready, /health, /docs, /registry/metrics]
      prompt:
        description: What to ask the model.
        type: str
        default: Tell me a short story.
      max_tokens:
        description: Longest answer to ask for.
        type: int
        default: 48
"""

EXAMPLES = r"""
- name: Check the platform as a client sees it
  mcpstack.platform.endpoint_probe:
    url: https://llm.example.org/v1
    ca_file: /etc/mcpstack/ca.crt
    api_key_file: /run/mcpstack/secrets/operator/operator-api-key/current
  register: probe

- name: Ask on another port of this machine, without embeddings
  mcpstack.platform.endpoint_probe:
    url: https://llm.example.org:8443/v1
    connect_to: 127.0.0.1:8443
    ca_file: ca.crt
    api_key_file: key
    expect:
      http_port: 8080
      embeddings: false
"""

RETURN = r"""
steps:
  description: Every step in order.
  returned: always
  type: list
  elements: dict
  sample:
    - {step: tcp, result: pass, where: "192.0.2.1:443 (llm.example.org)", what: connected in 0.3 ms, fix: ""}
figures:
  description: What was measured. Holds only what was reached.
  returned: always
  type: dict
  sample:
    ttft_ms: 12.5
    tokens_per_s: 310.2
    tokens: 48
    text: Once upon a time
    finish_reason: length
    model: demo
    tls_version: TLSv1.3
    certificate_days_left: 29.8
    mcp_tools: 7
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _endpoint_probe as core


def main() -> None:
    """Run the module."""
    defaults = core.EXPECT
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "connect_to": {"type": "str"},
            "server_name": {"type": "str"},
            "ca_file": {"type": "path"},
            "api_key_file": {"type": "path", "required": True, "no_log": False},
            "model": {"type": "str"},
            "timeout": {"type": "int", "default": 60},
            "expect": {
                "type": "dict",
                "default": {},
                "options": {
                    "days_left": {"type": "int", "default": defaults["days_left"]},
                    "http_port": {"type": "int", "default": defaults["http_port"]},
                    "embeddings": {"type": "bool", "default": defaults["embeddings"]},
                    "embedding_model": {"type": "str"},
                    "mcp": {"type": "str", "default": defaults["mcp"]},
                    "private_paths": {"type": "list", "elements": "str", "default": defaults["private_paths"]},
                    "prompt": {"type": "str", "default": defaults["prompt"]},
                    "max_tokens": {"type": "int", "default": defaults["max_tokens"], "no_log": False},
                },
            },
        },
        supports_check_mode=True,
    )
    params = module.params
    if module.check_mode:
        steps = [
            {"step": name, "result": core.UNKNOWN, "where": params["url"], "what": "not tried in check mode", "fix": ""}
            for name in core.STEPS
        ]
        module.exit_json(changed=False, steps=steps, figures={})
    try:
        probe = core.Probe(
            params["url"],
            core.read_key(params["api_key_file"]),
            params["connect_to"],
            params["server_name"],
            params["ca_file"],
            params["model"],
            params["expect"],
            params["timeout"],
        )
    except core.ProbeError as error:
        module.fail_json(msg=str(error), steps=[], figures={})
    # Should a server echo the key in a place nobody thought of, Ansible removes it from the result.
    module.no_log_values.add(probe.key)
    result = probe.run()
    if not result["passed"]:
        lines = core.failures(result["steps"])
        module.fail_json(msg="The endpoint does not work as expected:\n" + "\n".join(lines), **result)
    module.exit_json(changed=False, steps=result["steps"], figures=result["figures"])


if __name__ == "__main__":
    main()
