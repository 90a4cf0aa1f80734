#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module mcpstack.platform.model_cache."""

from __future__ import annotations

DOCUMENTATION = r"""
module: model_cache
short_description: Keep GGUF models in the shared read-only cache of a host
version_added: 0.1.0
description:
  - Makes sure that the listed models lie in a cache directory, each with the digest its publisher states.
  - A model is downloaded next to its place, with resume after a break, checked, and only then renamed into place.
  - Before anything is fetched, the first bytes of every missing model are read, and models that do not fit the disk or
    the memory are refused, with numbers.
  - C(manifest.json) in the cache says what the files of the listed models are, with size and digest, for whoever mounts it.
  - Called from a playbook, it shows the progress of downloads while they run.
author:
  - mcpstack.platform maintainers (@mcpstack)
extends_documentation_fragment:
  - mcpstack.platform.attributes
attributes:
  check_mode:
    support: full
    details:
      - Does not use the network, so the size of a missing model is not known.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  models:
    description: The models that have to be there.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the model, and of its directory in the cache.
        type: str
        required: true
      url:
        description: Address of the GGUF file, V(https:), V(http:) or V(file:) (a path on the target host).
        type: str
      hf:
        description: A file in a repository of Hugging Face, or of what answers at O(endpoint) like it.
        type: dict
        suboptions:
          repository:
            description: Owner and name, joined by a slash.
            type: str
            required: true
          revision:
            description: A commit, tag or branch. A commit is best, because it cannot change.
            type: str
            required: true
          file:
            description: Path of the file in the repository.
            type: str
            required: true
      demo:
        description: The demo model, made on the host from a seed. It speaks words, not sense.
        type: bool
        default: false
      sha256:
        description: Digest of the file. Required for every source but the demo model.
        type: str
      token_file:
        description: File on the target host with the token for a gated source. It must not be readable by everybody.
        type: path
      context:
        description: Tokens of context that are served, all slots together; V(0) for what the model was trained with.
        type: int
        default: 0
      cache_type_k:
        description: Type of the key cache, as the model server is told.
        type: str
        default: f16
      cache_type_v:
        description: Type of the value cache, as the model server is told.
        type: str
        default: f16
      memory:
        description: Memory this model needs, such as V(12g), where the estimate from its metadata is wrong.
        type: str
      size:
        description: Bytes of the file, for servers that do not tell.
        type: str
  path:
    description: Directory of the cache.
    type: path
    default: /var/lib/mcpstack/models
  endpoint:
    description: Base address for O(models[].hf).
    type: str
    default: https://huggingface.co
  memory_limit:
    description:
      - Memory limit of the service that loads all models, such as V(8g).
      - Without it, or where it is larger, the memory of the host counts.
    type: str
    default: "0"
  prompt_cache:
    description: Memory the model server may use to keep prompts, part of what has to fit.
    type: str
    default: "0"
  headroom:
    description: Disk space to keep free.
    type: str
    default: 1g
  verify:
    description:
      - V(changed) reads a file again only when its size, time or inode is not what it was when the digest was checked.
      - V(always) reads every file on every run.
    type: str
    choices: [changed, always]
    default: changed
  prune:
    description: Remove models and started downloads that are no longer listed.
    type: bool
    default: false
  retries:
    description: Failed attempts in a row after which a download is given up. An attempt that made progress starts anew.
    type: int
    default: 5
  timeout:
    description: Seconds without an answer or a byte after which an attempt has failed.
    type: int
    default: 30
  defer:
    description:
      - Return with RV(deferred=true) in place of downloading or reading large files.
      - Set by the action plugin of the same name, which then watches a second call; not meant for playbooks.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Keep the demo model
  mcpstack.platform.model_cache:
    models:
      - name: mcpstack-demo
        demo: true

- name: Keep a model from an address and one from a gated repository
  mcpstack.platform.model_cache:
    memory_limit: 16g
    models:
      - name: small-chat
        url: https://models.example.com/small-chat-q4.gguf
        sha256: "{{ small_chat_sha256 }}"
        context: 16384
      - name: large-chat
        hf: {repository: owner/name-GGUF, revision: "{{ large_chat_commit }}", file: name-q4_k_m.gguf}
        sha256: "{{ large_chat_sha256 }}"
        token_file: /root/hub-token
        context: 8192
"""

RETURN = r"""
models:
  description: The models by name. In check mode the size of a missing model is not known.
  returned: success
  type: dict
  contains:
    path:
      description: Where the file is.
      type: str
    file:
      description: Its name.
      type: str
    sha256:
      description: Its digest.
      type: str
    source:
      description: Where it comes from, without query or token.
      type: str
    state:
      description: V(present), V(downloaded), V(generated), V(would_download) or V(would_generate).
      type: str
    bytes:
      description: Its size.
      type: int
    memory:
      description: Memory it is expected to need, in bytes.
      type: int
  sample:
    mcpstack-demo:
      path: /var/lib/mcpstack/models/mcpstack-demo/403356ce44ad/mcpstack-demo.gguf
      file: mcpstack-demo.gguf
      sha256: 403356ce44ad2f1928893f51b9ecff2ffca545cdf4b745e4c5f63a932049745a
      source: the demo model
      state: present
      bytes: 3567776
      memory: 115464352
removed:
  description: What was pruned.
  returned: success
  type: list
  elements: str
fixed:
  description: Paths whose owner or mode was put right.
  returned: success
  type: list
  elements: str
bytes:
  description: Bytes received in this run.
  returned: success
  type: int
seconds:
  description: Duration of the run.
  returned: success
  type: float
deferred:
  description: Whether work was left to a later call, see O(defer).
  returned: success
  type: bool
busy:
  description: Whether another run holds the cache, see O(defer).
  returned: success
  type: bool
problems:
  description: Every problem, with where, what and fix.
  returned: failure
  type: list
  elements: dict
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils._model_cache import (
    Cache,
    ModelError,
    Settings,
    parse_size,
    problem,
    read_models,
)

HUB = {name: {"type": "str", "required": True} for name in ("repository", "revision", "file")}
MODEL = {
    "name": {"type": "str", "required": True},
    "url": {"type": "str"},
    "hf": {"type": "dict", "options": HUB},
    "demo": {"type": "bool", "default": False},
    "sha256": {"type": "str"},
    "token_file": {"type": "path", "no_log": False},
    "context": {"type": "int", "default": 0},
    "cache_type_k": {"type": "str", "default": "f16"},
    "cache_type_v": {"type": "str", "default": "f16"},
    "memory": {"type": "str"},
    "size": {"type": "str"},
}
ARGUMENTS = {
    "models": {"type": "list", "elements": "dict", "required": True, "options": MODEL},
    "path": {"type": "path", "default": "/var/lib/mcpstack/models"},
    "endpoint": {"type": "str", "default": "https://huggingface.co"},
    "memory_limit": {"type": "str", "default": "0"},
    "prompt_cache": {"type": "str", "default": "0"},
    "headroom": {"type": "str", "default": "1g"},
    "verify": {"type": "str", "choices": ["changed", "always"], "default": "changed"},
    "prune": {"type": "bool", "default": False},
    "retries": {"type": "int", "default": 5},
    "timeout": {"type": "int", "default": 30},
    "defer": {"type": "bool", "default": False},
}


def settings_of(params: dict, check_mode: bool) -> Settings:
    sizes, problems = {}, []
    for option in ("memory_limit", "prompt_cache", "headroom"):
        try:
            sizes[option] = parse_size(params[option])
        except ValueError:
            problems.append(problem(option, f"{params[option]!r} is not a size.", "Write it like 8g or 512m."))
    if problems:
        raise ModelError(problems)
    return Settings(
        root=params["path"],
        verify=params["verify"],
        prune=params["prune"],
        retries=params["retries"],
        timeout=params["timeout"],
        defer=params["defer"],
        check_mode=check_mode,
        owner=0 if os.geteuid() == 0 else None,
        **sizes,
    )


def diff_of(outcome) -> dict:
    after = {name: entry["path"] for name, entry in outcome.models.items()}
    there = {name: entry["path"] for name, entry in outcome.models.items() if entry["state"] == "present"}
    lines = {"before": [*there.values(), *outcome.removed], "after": list(after.values())}
    return {side: "".join(f"{line}\n" for line in sorted(paths)) for side, paths in lines.items()}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        models = read_models(module.params["models"], module.params["endpoint"])
        outcome = Cache(settings_of(module.params, module.check_mode)).ensure(models)
    except ModelError as error:
        module.fail_json(msg=f"The models are not ready. {error}", problems=error.problems)
    except OSError as error:
        module.fail_json(msg=f"{error.filename or module.params['path']}: {error.strerror}.", problems=[])
    module.exit_json(diff=diff_of(outcome), **vars(outcome))


if __name__ == "__main__":
    main()
