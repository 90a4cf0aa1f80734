# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gateway would refuse when it starts is refused before it is recreated."""

from __future__ import annotations

import pytest


def problems(role, **options):
    return role("gateway", **{f"mcpstack_gateway_{name}": value for name, value in options.items()}).value(
        "_mcpstack_gateway_problems"
    )


def test_the_defaults_and_good_values_have_no_problem(role):
    assert problems(role) == []
    assert problems(role, cors_origins=["*", "https://a.example.org:8443"]) == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_body_bytes": 0}, "mcpstack_gateway_max_body_bytes is 0: give a number from 1024 to 1073741824."),
        ({"concurrency": -1}, "mcpstack_gateway_concurrency is -1: give a number from 1 to 100000."),
        (
            {"cors_origins": ["https://a.example.org/x"]},
            'mcpstack_gateway_cors_origins: "https://a.example.org/x" is no origin: '
            "write it like https://chat.example.org, without a path.",
        ),
        (
            {"cors_origins": ["https://a.example.org\n"]},
            'mcpstack_gateway_cors_origins: "https://a.example.org\\n" is no origin: '
            "write it like https://chat.example.org, without a path.",
        ),
    ],
)
def test_each_problem_is_named_with_what_to_do(role, options, problem):
    assert problems(role, **options) == [problem]


def test_all_problems_are_named_at_once(role):
    assert len(problems(role, idle_timeout=0, requests_per_minute=0, cors_origins=["x"])) == 3
