# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE. Reads the head of a GGUF file and estimates the memory a model server needs for it."""

from __future__ import annotations

import struct

MAGIC = b"GGUF"
STRING, ARRAY = 8, 9
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
LONGEST_ARRAY = 4096  # longer ones (tokens, merges) are skipped, their length is kept
MOST_FIELDS = 100000

# Bytes per value of the caches llama-server knows; blocks of 32 values carry their scale.
CACHE_TYPES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
BATCH = 512  # tokens in one pass (llama-server's default --ubatch-size)
BASE = 96 * 1024 * 1024  # the process itself: program, HTTP threads, tokenizer


class NotGguf(Exception):
    """The bytes are not a GGUF file this reader understands."""


class NeedMore(Exception):
    """The head goes on beyond the bytes given."""


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count > 1 << 40:
            raise NotGguf("its metadata is damaged")
        end = self.at + count
        if end > len(self.data):
            raise NeedMore()
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def number(self, layout: str):
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", "replace")

    def value(self, kind: int):
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self.array()
        if kind not in SCALARS:
            raise NotGguf(f"its metadata holds the unknown type {kind}")
        return self.number(SCALARS[kind])

    def array(self):
        kind, count = self.number("<I"), self.number("<Q")
        if kind in SCALARS and count > LONGEST_ARRAY:
            self.take(struct.calcsize(SCALARS[kind]) * count)
            return count
        if kind == STRING and count > LONGEST_ARRAY:
            for _index in range(count):
                self.take(self.number("<Q"))
            return count
        return [self.value(kind) for _index in range(count)]


def read_head(data: bytes, complete: bool = False) -> dict:
    """The metadata in the given first bytes of a file.

    Raises NotGguf, or NeedMore when the fields that matter are not all there yet; with complete, whatever could be
    read is returned instead.
    """
    if data[:4] != MAGIC[: len(data[:4])]:
        raise NotGguf(f"it starts with {data[:4]!r} and not with {MAGIC!r}")
    cursor = _Cursor(data)
    fields: dict = {}
    try:
        cursor.take(4)
        version = cursor.number("<I")
        if version not in (2, 3):
            raise NotGguf(f"its format version is {version}; versions 2 and 3 are known")
        fields["tensors"], count = cursor.number("<Q"), cursor.number("<Q")
        if count > MOST_FIELDS:
            raise NotGguf("its metadata is damaged")
        for _index in range(count):
            key = cursor.text()
            kind = cursor.number("<I")
            if key == "tokenizer.ggml.tokens" and kind == ARRAY:
                fields["tokens"] = struct.unpack_from("<IQ", cursor.take(12))[1]
                cursor.at -= 12
                if _enough(fields):
                    return fields
            fields[key] = cursor.value(kind)
    except NeedMore:
        if not (complete or _enough(fields)):
            raise
    return fields


def _enough(fields: dict) -> bool:
    arch = fields.get("general.architecture")
    wanted = ("block_count", "embedding_length", "attention.head_count", "attention.head_count_kv")
    return bool(arch) and "tokens" in fields and all(f"{arch}.{key}" in fields for key in wanted)


def memory_need(
    fields: dict, size: int, context: int, cache_k: str = "f16", cache_v: str = "f16", prompt_cache: int = 0
) -> dict:
    """Bytes by part: weights, context (the key and value cache), compute, base, prompt_cache and their total.

    Context: tokens x sum over layers of key/value heads x (key length x bytes + value length x bytes), which is exactly
    what llama-server reports as its KV buffer. Compute: one batch of scores over the vocabulary, of the widest layer and
    of the attention mask; an upper bound.
    """
    arch = fields.get("general.architecture", "")

    def number(key: str, default: int = 0) -> int:
        value = fields.get(f"{arch}.{key}", default)
        return max(value) if isinstance(value, list) and value else value or default

    layers, width = number("block_count"), number("embedding_length")
    heads = number("attention.head_count", 1)
    per_layer = fields.get(f"{arch}.attention.head_count_kv", heads)
    kv_heads = sum(per_layer) if isinstance(per_layer, list) else per_layer * layers
    head_width = width // max(heads, 1)
    per_token = kv_heads * (
        number("attention.key_length", head_width) * CACHE_TYPES[cache_k]
        + number("attention.value_length", head_width) * CACHE_TYPES[cache_v]
    )
    if not context:
        context = number("context_length", 4096)
    vocabulary = fields.get("tokens") or number("vocab_size", 32000)
    parts = {
        "weights": size,
        "context": int(per_token * context),
        "compute": BATCH * (4 * (vocabulary + 2 * number("feed_forward_length", 4 * width) + 4 * width) + context),
        "base": BASE,
        "prompt_cache": prompt_cache,
    }
    parts["total"] = sum(parts.values())
    return parts
