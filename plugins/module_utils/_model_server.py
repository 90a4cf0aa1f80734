# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE. How llama-server is started for a list of models: one process, or a router with one process per model."""

from __future__ import annotations

from ._model_cache import ModelError, parse_size, problem, read_models

MOUNT = "/models"
PRESETS = "/etc/model-runner/presets.ini"
KEY_FILE = "/run/secrets/model-api-key/current"

# What an operator may add. Everything that opens files, networks, tools or logs of prompts stays closed.
ALLOWED = {
    "batch_size": "int",
    "ubatch_size": "int",
    "threads_batch": "int",
    "poll": "int",
    "flash_attn": ("on", "off", "auto"),
    "cache_type_k": ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"),
    "cache_type_v": ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"),
    "cache_reuse": "int",
    "swa_full": "bool",
    "context_shift": "bool",
    "load_mode": ("auto", "none", "mmap", "mlock", "mmap+mlock"),
    "numa": ("distribute", "isolate", "numactl"),
    "n_predict": "int",
    "temp": "float",
    "top_k": "int",
    "top_p": "float",
    "min_p": "float",
    "repeat_penalty": "float",
    "reasoning": ("on", "off", "auto"),
    "reasoning_budget": "int",
    "sleep_idle_seconds": "int",
}
KINDS = {"int": int, "float": (int, float), "bool": bool}


def _arguments(extra: dict, problems: list) -> dict:
    """Checked arguments by their long name; a flag is True or False."""
    found = {}
    for name, value in extra.items():
        where, kind = f"extra_args.{name}", ALLOWED.get(name)
        if kind is None:
            problems.append(
                problem(
                    where, "is not an argument that may be added.", "Use one of " + ", ".join(sorted(ALLOWED)) + "."
                )
            )
        elif isinstance(kind, tuple):
            if value not in kind:
                problems.append(problem(where, f"{value!r} is not possible.", "Use one of " + ", ".join(kind) + "."))
        elif not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind != "bool"):
            problems.append(problem(where, f"{value!r} is not of type {kind}.", f"Give a value of type {kind}."))
        found[name.replace("_", "-")] = value
    return found


def plan(
    models: list,
    endpoint: str = "https://huggingface.co",
    context: int = 4096,
    parallel: int = 4,
    threads: int = 0,
    cpus="1.0",
    prompt_cache: str = "64m",
    extra_args: dict | None = None,
) -> dict:
    """command (a list), presets (text, empty without a router) and cache (entries for model_cache)."""
    problems: list = []
    extra = _arguments(extra_args or {}, problems)
    if not models:
        problems.append(
            problem("models", "is empty.", "List at least one model, such as {name: mcpstack-demo, demo: true}.")
        )
    for option, value, least in (("context", context, 128), ("parallel", parallel, 1), ("threads", threads, 0)):
        if value < least:
            problems.append(problem(option, f"{value} is too small.", f"Give at least {least}."))
    try:
        cache_ram = parse_size(prompt_cache) // 2**20
    except ValueError:
        cache_ram = 0
        problems.append(problem("prompt_cache", f"{prompt_cache!r} is not a size.", "Write it like 64m."))
    entries = []
    for entry in models:
        wanted = {key: value for key, value in entry.items() if key not in ("embeddings", "context")}
        wanted["context"] = (entry.get("context") or context) * parallel
        wanted["cache_type_k"] = extra.get("cache-type-k", "f16")
        wanted["cache_type_v"] = extra.get("cache-type-v", "f16")
        entries.append(wanted)
    checked = []
    try:
        checked = read_models(entries, endpoint)
    except ModelError as error:
        problems += error.problems
    if problems:
        raise ModelError(problems)

    served = []
    for entry, model in zip(models, checked, strict=True):
        auto = 1 if model.demo else max(1, int(float(cpus)) // len(models))
        arguments = {
            "model": f"{MOUNT}/{model.place}",
            "ctx-size": model.context,
            "parallel": parallel,
            "threads": threads or auto,
            "cache-ram": cache_ram,
            **extra,
        }
        wants = entry.get("embeddings")
        if model.demo if wants is None else wants:
            arguments.update({"embeddings": True, "pooling": "mean"})
        served.append((model.name, arguments))

    command = ["--host", "0.0.0.0", "--port", "8080"]  # noqa: S104 - inside a container on an internal network
    command += ["--api-key-file", KEY_FILE, "--metrics", "--no-slots", "--no-ui", "--offline"]
    command += ["--cors-origins", "localhost", "--no-cors-credentials", "--threads-http", "8", "--log-verbosity", "1"]
    presets = ""
    if len(served) == 1:
        name, arguments = served[0]
        command += ["--alias", name]
        for key, value in arguments.items():
            command += [f"--{'' if value else 'no-'}{key}"] if isinstance(value, bool) else [f"--{key}", str(value)]
    else:
        command += ["--models-preset", PRESETS, "--models-max", str(len(served))]
        presets = "version = 1\n"
        for name, arguments in served:
            presets += f"\n[{name}]\nload-on-startup = true\n"
            presets += "".join(f"{key} = {_text(value)}\n" for key, value in arguments.items())
    return {"command": command, "presets": presets, "cache": entries, "names": [name for name, _arguments in served]}


def _text(value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
