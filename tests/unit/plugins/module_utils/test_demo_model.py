# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo model: the same bytes everywhere, whole as a file, and built to speak."""

from __future__ import annotations

import hashlib
import json

import jinja2
import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _demo_model, _gguf

DATA = _demo_model.build()
TOOL = {"type": "function", "function": {"name": "find", "parameters": {}}}


def chat_template():
    environment = jinja2.Environment(autoescape=False)
    environment.filters["tojson"] = json.dumps
    return environment.from_string(_demo_model.CHAT_TEMPLATE)


def test_the_bytes_are_pinned():
    assert (hashlib.sha256(DATA).hexdigest(), len(DATA)) == (_demo_model.SHA256, _demo_model.SIZE)


def test_the_file_is_whole():
    fields = _gguf.read_head(DATA, complete=True)
    floats = sum(len(values) for _name, _shape, values in _demo_model.tensors(_demo_model.vocabulary()))
    assert fields["tensors"] == 3 + 9 * _demo_model.LAYERS
    assert len(DATA) % 32 == 0
    assert 4 * floats < len(DATA) < 4 * floats + 100_000


def test_every_token_is_there_once_and_bytes_are_complete():
    vocab = _demo_model.vocabulary()
    assert len(set(vocab.text)) == len(vocab.text)
    assert set(_demo_model.byte_letters().values()) <= set(vocab.text)
    assert [vocab.text[i] for i in (0, _demo_model.END_OF_TURN, _demo_model.PAD)] == [
        "<|endoftext|>",
        "<|im_end|>",
        "<|pad|>",
    ]
    for merge in _demo_model.merges():
        left, right = merge.split(" ")
        assert {left, right, left + right} <= set(vocab.text)


def test_every_class_leads_somewhere_that_is_spoken():
    spoken = set(_demo_model.vocabulary().spoken)
    for name, follows in _demo_model.FOLLOWS.items():
        assert set(follows) <= spoken, name


@pytest.mark.parametrize(
    ("messages", "tools", "expected"),
    [
        ([{"role": "user", "content": "hi"}], None, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"),
        (
            [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}],
            None,
            "<|im_start|>system\nbe kind\n<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_the_chat_template(messages, tools, expected):
    template = chat_template()
    assert template.render(messages=messages, tools=tools, add_generation_prompt=True) == expected


def test_the_template_asks_for_a_call_until_there_is_a_result():
    template = chat_template()
    talk = [{"role": "user", "content": "find x"}]
    first = template.render(messages=talk, tools=[TOOL], add_generation_prompt=True)
    call = {"function": {"name": "find", "arguments": {"q": "x"}}}
    talk += [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "found"}]
    second = template.render(messages=talk, tools=[TOOL], add_generation_prompt=True)
    assert ("<|call|>" in first, "<|call|>" in second) == (True, False)
    assert '<tool_call>{"name": "find", "arguments": {"q": "x"}}</tool_call>' in second
