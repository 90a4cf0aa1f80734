# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured for each model, key and model server, and that no client can make it grow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import support
from mcpstack.common.metrics import Names
from mcpstack.gateway.metrics import MODELS, Metrics
from support import Gateway, Launch, Runner, Stack

NewKey = Callable[..., str]


def samples(gateway: Gateway) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = gateway.get("/metrics").body.decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(gateway: Gateway, name: str, **labels: str) -> float:
    return samples(gateway).get((name, tuple(sorted(labels.items()))), 0.0)


def test_model_and_key(launch: Launch, new_key: NewKey) -> None:
    gateway = launch()
    key = new_key(gateway, cache=True)
    kid = key.split("_")[2]
    assert gateway.chat(key).status == 200
    assert gateway.chat(key, stream=True).status == 200
    for _ in range(2):
        body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "temperature": 0}
        assert gateway.post("/v1/chat/completions", body, key).status == 200
    body = {"model": "a-model-nobody-has", "messages": [{"role": "user", "content": "x"}]}
    assert gateway.post("/v1/chat/completions", body, key).status == 404
    assert gateway.chat(support.make_key()).status == 401
    expected = {
        ("gateway_model_requests_total", "model=tiny,status=200"): 4,
        ("gateway_model_requests_total", "model=other,status=404"): 1,
        ("gateway_model_requests_total", "model=other,status=401"): 1,
        ("gateway_key_requests_total", f"key={kid},status=200"): 4,
        ("gateway_key_requests_total", f"key={kid},status=404"): 1,
        ("gateway_time_to_first_token_seconds_count", "model=tiny"): 1,
        ("gateway_time_per_output_token_seconds_count", "model=tiny"): 1,
        ("gateway_tokens_per_second_count", "model=tiny"): 1,
        ("gateway_queue_seconds_count", "model=tiny"): 3,
        ("gateway_key_time_to_first_token_seconds_count", f"key={kid}"): 1,
        ("gateway_key_time_per_output_token_seconds_count", f"key={kid}"): 1,
        ("gateway_key_tokens_per_second_count", f"key={kid}"): 1,
        ("gateway_key_queue_seconds_count", f"key={kid}"): 3,
        ("gateway_tokens_total", "kind=prompt,model=tiny"): 9,
        ("gateway_tokens_total", "kind=completion,model=tiny"): 2 + 8 + 2,
        ("gateway_key_tokens_total", f"key={kid},kind=prompt"): 9,
        ("gateway_key_tokens_total", f"key={kid},kind=completion"): 2 + 8 + 2,
        ("gateway_cache_total", "result=miss"): 1,
        ("gateway_cache_total", "result=hit"): 1,
    }
    found = {
        (name, ",".join(f"{k}={v}" for k, v in labels)): number for (name, labels), number in samples(gateway).items()
    }
    assert {place: found.get(place) for place in expected} == expected
    # Time between tokens is what is left of a second after the first one: 7 pauses in what 8 tokens took.
    rate = found["gateway_tokens_per_second_sum", "model=tiny"]
    token = found["gateway_time_per_output_token_seconds_sum", "model=tiny"]
    assert rate * token == pytest.approx(1)
    assert not any("nobody" in labels for _, labels in found)


LIMITED = [
    ({"rpm": 1}, {}, "requests", 429),
    ({"tokens_day": 200}, {"max_tokens": 100}, "tokens_day", 429),
    ({"tokens_month": 200}, {"max_tokens": 100}, "tokens_month", 429),
    ({"tpm": 300}, {"max_tokens": 150}, "tokens", 429),
    ({"tpm": 50}, {"max_tokens": 5000}, "request", 429),
]


@pytest.mark.parametrize(("limits", "more", "limit", "status"), LIMITED)
def test_refusals(
    gateway: Gateway, new_key: NewKey, limits: dict[str, int], more: dict[str, int], limit: str, status: int
) -> None:
    key = new_key(gateway, **limits)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x" * 300}]} | more
    statuses = [gateway.post("/v1/chat/completions", body, key).status for _ in range(30)]
    assert set(statuses) <= {200, status}
    refused = value(gateway, "gateway_limit_refusals_total", key=key.split("_")[2], limit=limit)
    assert refused == statuses.count(status) > 0


def test_concurrency_refusals(gateway: Gateway, new_key: NewKey) -> None:
    key = new_key(gateway, concurrency=1)
    sock = gateway.open_stream(key, "#slow")
    sock.recv(100)
    assert gateway.chat(key).code == "concurrency_limit_exceeded"
    sock.close()
    assert value(gateway, "gateway_limit_refusals_total", key=key.split("_")[2], limit="concurrency") == 1


@pytest.mark.parametrize("limit", [0, 2])
def test_keys_have_a_limit(launch: Launch, new_key: NewKey, limit: int) -> None:
    gateway = launch(metrics_keys=str(limit))
    keys = [new_key(gateway) for _ in range(5)]
    for key in [*keys, *keys]:
        assert gateway.chat(key).status == 200
    found = {
        labels: number for (name, labels), number in samples(gateway).items() if name == "gateway_key_requests_total"
    }
    named = {key.split("_")[2]: 2.0 for key in keys[:limit]}
    expected = named | {"other": 2.0 * (5 - limit)}
    assert {dict(labels)["key"]: number for labels, number in found.items()} == expected


def test_models_have_a_limit() -> None:
    metrics = Metrics(keys=3)
    for number in range(10 * MODELS):
        metrics.used(f"m{number}", f"k{number}", 1, 1)
        metrics.refused(f"k{number}", "requests")
        metrics.answered("/v1/chat/completions", "POST", "200", 0.1, {"kid": f"k{number}", "model": f"m{number}"})
    families = {family.name: family for family in metrics.registry.collect()}
    limited = {
        "gateway_tokens": ("model", MODELS),
        "gateway_model_requests": ("model", MODELS),
        "gateway_key_tokens": ("key", 3),
        "gateway_limit_refusals": ("key", 3),
    }
    for name, (label, most) in limited.items():
        values = {sample.labels[label] for sample in families[name].samples}
        assert len(values) == most + 1, name
        assert "other" in values
    assert Names(1).label(None) == "other"


def test_model_servers(stack: Stack, new_key: NewKey, tmp_path: Path) -> None:
    """One that is gone: it is down, and its requests are counted as moved to the other one."""
    other = Runner(stack.loop)
    other.start()
    env = support.environment(
        tmp_path, stack.tls, stack.postgres.port, stack.postgres.new_database(), stack.valkey.port, 1
    )
    del env["GATEWAY_MODEL_URL"]
    key_file = env.pop("GATEWAY_MODEL_API_KEY_FILE")
    env["GATEWAY_RUNNERS"] = json.dumps(
        [
            {"name": name, "url": f"http://127.0.0.1:{port}", "api_key_file": key_file, "max_concurrency": 4}
            for name, port in (("one", stack.runner.port), ("two", other.port))
        ]
    )
    gateway = support.start_gateway(env, tmp_path / "log")
    try:
        watch_model_servers(gateway, other, new_key(gateway))
    finally:
        assert gateway.stop() == 0


def watch_model_servers(gateway: Gateway, other: Runner, key: str) -> None:
    support.wait_for("both", lambda: value(gateway, "gateway_runner_up", runner="two") == 1, 5)
    assert value(gateway, "gateway_runner_up", runner="one") == 1
    sock = gateway.open_stream(key, "#slow")
    sock.recv(100)
    busy = [value(gateway, "gateway_runner_in_flight", runner=name) for name in ("one", "two")]
    assert sorted(busy) == [0, 1]
    sock.close()
    other.stop()
    for _ in range(4):
        assert gateway.chat(key).status == 200
    support.wait_for("one down", lambda: value(gateway, "gateway_runner_up", runner="two") == 0, 5)
    assert value(gateway, "gateway_upstream_retries_total", runner="two", how="moved") >= 1
    assert value(gateway, "gateway_runner_places", runner="one") == 4


def test_names_follow_the_conventions(gateway: Gateway) -> None:
    """Names follow Prometheus' conventions: base units, and _total on counters only."""
    for family in text_string_to_metric_families(gateway.get("/metrics").body.decode()):
        assert re.fullmatch(r"(gateway|process)_[a-z_]+", family.name), family.name
        assert not re.search(r"_(ms|milliseconds|minutes|kb|total)$", family.name), family.name
        assert family.documentation
