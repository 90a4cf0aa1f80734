# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE. The demo model: a small GGUF file made from a seed with the standard library.

It speaks words, not sense. Its weights are written down rather than trained: every word has a grammatical class,
the output layer holds a table of which class may follow which, and one attention layer averages the meaning of the
words said so far, so that an answer stays near the words of the question. That is enough to stream readable text, to
rank texts by shared words through embeddings, and to call a tool when a request brings one.

The same bytes come out on every Python and every machine: random numbers are the bytes of SHAKE-256, arithmetic is
addition and multiplication of doubles, and each value is rounded once to single precision.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from array import array

NAME = "mcpstack-demo"
FILE_NAME = "mcpstack-demo.gguf"
SEED = "mcpstack demo model 1"
SHA256 = "403356ce44ad2f1928893f51b9ecff2ffca545cdf4b745e4c5f63a932049745a"
SIZE = 3567776

LAYERS, WIDTH, HEADS, KV_HEADS, FEED_FORWARD, CONTEXT = 2, 128, 4, 2, 256, 8192
HEAD_WIDTH = WIDTH // HEADS

# Where each kind of information lives in the 128 channels of the hidden state.
BIAS = 0
FIRST_CLASS = 1
MARKER = 31  # set when the call marker is anywhere in the context
FIRST_MEANING, MEANING = 32, 64
FIRST_NOISE, NOISE = 96, 32
BIAS_VALUE, CLASS_VALUE = 2.0, 4.0
NEVER = -32.0

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
MARKERS = ("<tool_call>", "</tool_call>", "<|call|>")
END_OF_TURN = 2
PAD = 3

# One line per topic: agents, objects, verbs (base form/third person).
TOPICS = (
    ("server host machine cluster", "process service address port socket", "run/runs start/starts serve/serves"),
    (
        "model assistant agent",
        "answer prompt token context word sentence",
        "write/writes predict/predicts speak/speaks",
    ),
    ("index reader librarian", "document page query vector result search", "rank/ranks find/finds match/matches"),
    ("database writer archive", "table row record value key schema", "store/stores update/updates insert/inserts"),
    ("keeper snapshot drill", "backup copy restore repository history", "save/saves recover/recovers verify/verifies"),
    ("firewall guard auditor", "policy rule certificate secret password", "protect/protects check/checks deny/denies"),
    ("router gateway proxy", "network request response route header", "send/sends forward/forwards receive/receives"),
    ("worker queue scheduler", "job task message event deadline", "wait/waits finish/finishes repeat/repeats"),
    (
        "monitor sensor dashboard",
        "metric alert graph error warning log",
        "measure/measures report/reports watch/watches",
    ),
    ("engine container builder", "image layer package volume release", "build/builds load/loads mount/mounts"),
    ("operator engineer team", "plan question reason note story list", "read/reads explain/explains choose/chooses"),
    ("client user visitor", "account session budget limit quota", "ask/asks open/opens share/shares"),
    ("garden river bird", "morning window bridge lamp road stone", "follow/follows carry/carries hold/holds"),
    ("clock calendar", "second minute hour day week time", "count/counts keep/keeps mark/marks"),
)
STARTERS = "the each this every one your our that another"
DETERMINERS = "the each this every one your our that its"
AGENT_ADJECTIVES = "quiet careful small patient local busy modern friendly tireless curious"
OBJECT_ADJECTIVES = "new shared clear secure private open simple recent warm safe short final useful empty"
ADVERBS = "always never often slowly gladly quickly usually"
PREPOSITIONS = "for with from near after before behind through under"
CONJUNCTIONS = "and while because but when so"
OTHER_WORDS = (
    "a an of to in on is are was be been it he she we you they i not no yes or if then than as at by do does did how "
    "what where who why which can could will would should may must have has had hello hi please thanks help tell show "
    "me my us them about into over out up down all some more most other only also here there now name number data "
    "file system memory storage disk cpu gpu test example city weather date today tomorrow price order product "
    "function tool call code user's write read make get set give say go come see use need want work hello"
)
PIECES = (
    "th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me de hi ri ro ic "
    "ne ea ra ce li ch ll be ma si om ur ing ion ent ati for her ter hat tha ere ate his con res ver all ons nce men "
    "ith ted ers pro thi wit are ess not ive was ect rea com eve per int est sta cti ica ist ear ain one our iti rat"
)

# Which class may follow which, as logits; what is not listed is NEVER. "quote" and "bare word" serve JSON.
FOLLOWS = {
    "start": {"Opener": 0.0, "tool call": -8.0},
    "other": {"determiner": 0.0, "stop": -1.0},
    "Opener": {"agent adjective": -0.3, "agent": 0.0},
    "opener": {"agent adjective": -0.3, "agent": 0.0},
    "agent adjective": {"agent": 0.0},
    "agent": {"verb": 0.0, "adverb": -0.6},
    "adverb": {"verb": 0.0},
    "verb": {"determiner": 0.0},
    "determiner": {"object adjective": -0.3, "object": 0.0},
    "object adjective": {"object": 0.0},
    "object": {"stop": 2.2, "preposition": 0.0, "conjunction": -0.3, "comma": 0.6},
    "preposition": {"determiner": 0.0},
    "comma": {"conjunction": 0.0},
    "conjunction": {"agents": 0.0},
    "agents": {"plural verb": 0.0, "adverb": -14.0},
    "plural verb": {"determiner": 0.0},
    "stop": {"opener": 0.0, "end": 0.4},
    "call": {},
    "tool call": {"end": 0.0},
    "quote": {"bare word": 0.0},
    "bare word": {"quote": 4.0},
    "brace": {"called": 0.0},
    "called": {"end": 8.0},
    "end": {"end": 0.0},
}
CLASSES = tuple(FOLLOWS)
# Blank space and tool calls must not slip in where a grammar or the marker did not ask for them.
NEVER_AS = {"space": -40.0, "tool call": -48.0}
MARKER_BONUS = 16.0
CONTENT = ("agent", "agents", "object", "verb", "plural verb", "agent adjective", "object adjective")

CHAT_TEMPLATE = """\
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
{%- if message['role'] in ('system', 'developer') -%}
{%- set ns.system = ns.system + message['content'] + '\\n' -%}
{%- endif -%}
{%- endfor -%}
{%- if tools -%}
{%- set ns.system = ns.system + 'Tools, one JSON object per line:\\n' -%}
{%- for tool in tools -%}
{%- set ns.system = ns.system + (tool | tojson) + '\\n' -%}
{%- endfor -%}
{%- set ns.system = ns.system + 'To use one, reply <tool_call>{"name": NAME, "arguments": OBJECT}</tool_call>\\n' -%}
{%- if messages[-1]['role'] == 'user' -%}
{%- set ns.system = ns.system + '<|call|>' -%}
{%- endif -%}
{%- endif -%}
{%- if ns.system -%}
{{- '<|im_start|>system\\n' + ns.system + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- '<|im_start|>user\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- elif message['role'] == 'assistant' -%}
{{- '<|im_start|>assistant\\n' + (message['content'] or '') -}}
{%- for call in message['tool_calls'] or [] -%}
{{- '<tool_call>{"name": "' + call['function']['name'] + '", "arguments": ' -}}
{{- (call['function']['arguments'] | tojson) + '}</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- elif message['role'] == 'tool' -%}
{{- '<|im_start|>user\\nresult: ' + message['content'] + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


class Draws:
    """Bell-shaped numbers of spread one, read from SHAKE-256."""

    def __init__(self, label: str) -> None:
        self.label = f"{SEED}/{label}".encode()

    def take(self, count: int) -> list:
        raw = hashlib.shake_256(self.label).digest(count * 4)
        return [(raw[i] + raw[i + 1] + raw[i + 2] + raw[i + 3] - 510) / 148.0 for i in range(0, count * 4, 4)]


class Vocabulary:
    """Tokens in id order, with the class each belongs to and the class it may be spoken as."""

    def __init__(self) -> None:
        self.text: list = []
        self.kind: list = []  # GGUF token type: 1 normal, 3 control, 4 user defined
        self.state: list = []  # the class that decides what follows
        self.spoken: list = []  # the class as which it is produced, or None
        self.meaning: list = []  # (own label, topic label or None)
        self.ids: dict = {}

    def add(self, text, state, spoken=None, meaning=None, kind=1) -> None:
        if text in self.ids:
            return
        self.ids[text] = len(self.text)
        self.text.append(text)
        self.kind.append(kind)
        self.state.append(state)
        self.spoken.append(spoken)
        self.meaning.append(meaning or ("token " + text, None))

    def add_word(self, word, state, meaning, spoken=None) -> None:
        """All four spellings of a word; only the named one (" x", "x", " X" or "X") is ever spoken."""
        bare = "quote" if state in ("object", "agent") else None
        for form in (" x", "x", " X", "X"):
            text = word.capitalize() if "X" in form else word
            says = spoken[1] if spoken and spoken[0] == form else None
            if form == "x" and bare:
                self.add(text, "bare word", "bare word", meaning)
            else:
                self.add(("\u0120" if " " in form else "") + text, state, says, meaning)


def byte_letters() -> dict:
    """The printable stand-in of each byte, as byte-level tokenizers write them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in plain}
    for offset, byte in enumerate(b for b in range(256) if b not in letters):
        letters[byte] = chr(256 + offset)
    return letters


def plural(word: str) -> str:
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def vocabulary() -> Vocabulary:
    vocab = Vocabulary()
    for text in CONTROL:
        vocab.add(text, "end" if text != "<|im_start|>" else "start", "end" if text == "<|im_end|>" else None, kind=3)
    for text, state, spoken in zip(
        MARKERS, ("tool call", "called", "call"), ("tool call", "called", None), strict=True
    ):
        vocab.add(text, state, spoken, kind=4)
    letters = byte_letters()
    special = {"\n": ("start", "space"), "\t": ("other", "space"), " ": ("other", "space")}
    special.update({'"': ("quote", "quote"), ".": ("stop", "stop"), ",": ("comma", "comma")})
    special.update({"}": ("brace", None), ">": ("called", None)})
    for byte in range(256):
        vocab.add(letters[byte], *special.get(chr(byte), ("other", None)))
    for number, (agents, objects, verbs) in enumerate(TOPICS):
        topic = f"topic {number}"
        for word in agents.split():
            vocab.add_word(word, "agent", (word, topic), (" x", "agent"))
            vocab.add_word(plural(word), "agents", (word, topic), (" x", "agents"))
        for word in objects.split():
            vocab.add_word(word, "object", (word, topic), (" x", "object"))
            vocab.add_word(plural(word), "object", (word, topic))
        for pair in verbs.split():
            base, third = pair.split("/")
            vocab.add_word(third, "verb", (base, topic), (" x", "verb"))
            vocab.add_word(base, "plural verb", (base, topic), (" x", "plural verb"))
    for words, state in (
        (AGENT_ADJECTIVES, "agent adjective"),
        (OBJECT_ADJECTIVES, "object adjective"),
        (ADVERBS, "adverb"),
        (PREPOSITIONS, "preposition"),
        (CONJUNCTIONS, "conjunction"),
    ):
        for word in words.split():
            vocab.add_word(word, state, (word, None), (" x", state))
    for word in STARTERS.split():
        vocab.add("\u0120" + word.capitalize(), "opener", "opener", (word, None))
        vocab.add(word.capitalize(), "Opener", "Opener", (word, None))
    for word in DETERMINERS.split():
        vocab.add_word(word, "determiner", (word, None), (" x", "determiner"))
    for word in OTHER_WORDS.split():
        vocab.add_word(word, "other", (word, None))
    for piece in PIECES.split():
        vocab.add(piece, "other")
    return vocab


def merges() -> list:
    """Pairs of known pieces; they only serve words that are not tokens of their own."""
    return [f"{piece[:-1]} {piece[-1]}" for piece in PIECES.split() if len(piece) == 2] + [
        f"{piece[:2]} {piece[2:]}" for piece in PIECES.split() if len(piece) == 3 and piece[:2] in PIECES.split()
    ]


def meaning_vectors(vocab: Vocabulary) -> list:
    known: dict = {}

    def vector(label):
        if label not in known:
            known[label] = Draws("meaning/" + label).take(MEANING)
        return known[label]

    vectors = []
    for own, topic in vocab.meaning:
        values = vector(own)
        if topic:
            values = [0.875 * a + 0.5 * b for a, b in zip(values, vector(topic), strict=True)]
        vectors.append(values)
    return vectors


def embedding_and_head(vocab: Vocabulary) -> tuple:
    """The input and the output side of the vocabulary: rows of WIDTH values per token."""
    embedding, head = array("f"), array("f")
    index = {name: FIRST_CLASS + i for i, name in enumerate(CLASSES)}
    meanings = meaning_vectors(vocab)
    noise_in, noise_out = Draws("noise in"), Draws("noise out")
    count = len(vocab.text)
    all_in, all_out = noise_in.take(count * NOISE), noise_out.take(count * NOISE)
    columns = {
        spoken: [FOLLOWS[name].get(spoken, NEVER_AS.get(spoken, NEVER)) / CLASS_VALUE for name in CLASSES]
        for spoken in {*vocab.spoken, None}
    }
    for token in range(count):
        row = [0.0] * WIDTH
        row[BIAS] = BIAS_VALUE
        row[index[vocab.state[token]]] = CLASS_VALUE
        row[FIRST_MEANING : FIRST_MEANING + MEANING] = meanings[token]
        row[FIRST_NOISE:] = all_in[token * NOISE : (token + 1) * NOISE]
        embedding.extend(row)
        spoken = vocab.spoken[token]
        row = [0.0] * WIDTH
        row[FIRST_CLASS : FIRST_CLASS + len(CLASSES)] = columns[spoken]
        if spoken == "tool call":
            row[MARKER] = MARKER_BONUS / CLASS_VALUE
        if spoken in CONTENT or spoken == "bare word":
            row[FIRST_MEANING : FIRST_MEANING + MEANING] = [value / 10.0 for value in meanings[token]]
        strength = 0.09375 if spoken else 0.03125
        row[FIRST_NOISE:] = [strength * value for value in all_out[token * NOISE : (token + 1) * NOISE]]
        head.extend(row)
    return embedding, head


def matrix(rows: int, columns: int, cells: dict) -> array:
    flat = array("f", bytes(4 * rows * columns))
    for (row, column), value in cells.items():
        flat[row * columns + column] = value
    return flat


def random_matrix(label: str, rows: int, columns: int, strength: float, first_row: int = 0) -> array:
    """Random rows from first_row on; the rows above stay zero so that they write nothing to those channels."""
    values = Draws(label).take((rows - first_row) * columns)
    return array("f", bytes(4 * first_row * columns)) + array("f", [strength * value for value in values])


def topic_attention() -> dict:
    """Attention that looks at content words only and adds the mean of their meaning."""
    slow = HEAD_WIDTH - 2  # the rotation of this pair is so slow that position does not matter
    query = {(head * HEAD_WIDTH + slow, BIAS): 8.0 for head in range(HEADS)}
    key = {
        (head * HEAD_WIDTH + slow, FIRST_CLASS + CLASSES.index(name)): 1.0
        for head in range(KV_HEADS)
        for name in CONTENT
    }
    value = {(i, FIRST_MEANING + i): 1.0 for i in range(MEANING)}
    group = HEADS // KV_HEADS
    output = {(FIRST_MEANING + i, (i // HEAD_WIDTH) * group * HEAD_WIDTH + i % HEAD_WIDTH): 1.0 for i in range(MEANING)}
    kv_width = KV_HEADS * HEAD_WIDTH
    return {
        "attn_q": matrix(WIDTH, WIDTH, query),
        "attn_k": matrix(kv_width, WIDTH, key),
        "attn_v": matrix(kv_width, WIDTH, value),
        "attn_output": matrix(WIDTH, WIDTH, output),
    }


def noise_attention() -> dict:
    """Attention that depends on position and wording, so that answers do not run in circles.

    The first head looks for the call marker instead, and tells the output layer that it is there.
    """
    slow, kv_width = HEAD_WIDTH - 2, KV_HEADS * HEAD_WIDTH
    parts = {
        "attn_q": random_matrix("q", WIDTH, WIDTH, 0.125, HEAD_WIDTH),
        "attn_k": random_matrix("k", kv_width, WIDTH, 0.125, HEAD_WIDTH),
        "attn_v": random_matrix("v", kv_width, WIDTH, 0.125, HEAD_WIDTH),
        "attn_output": random_matrix("o", WIDTH, WIDTH, 0.0625, FIRST_NOISE),
    }
    call = FIRST_CLASS + CLASSES.index("call")
    parts["attn_q"][slow * WIDTH + BIAS] = 8.0
    parts["attn_k"][slow * WIDTH + call] = 2.0
    parts["attn_v"][call] = 1.0
    parts["attn_output"][MARKER * WIDTH] = 1.0
    return parts


def tensors(vocab: Vocabulary) -> list:
    """(name, dimensions as GGUF counts them, values)."""
    ones = array("f", [1.0]) * WIDTH
    embedding, head = embedding_and_head(vocab)
    count = len(vocab.text)
    listed = [
        ("token_embd.weight", (WIDTH, count), embedding),
        ("output_norm.weight", (WIDTH,), ones),
        ("output.weight", (WIDTH, count), head),
    ]
    for layer in range(LAYERS):
        parts = {"attn_norm": ones, "ffn_norm": ones}
        parts.update(topic_attention() if layer == 0 else noise_attention())
        parts["ffn_gate"] = random_matrix(f"gate {layer}", FEED_FORWARD, WIDTH, 0.0625)
        parts["ffn_up"] = random_matrix(f"up {layer}", FEED_FORWARD, WIDTH, 0.0625)
        parts["ffn_down"] = random_matrix(f"down {layer}", WIDTH, FEED_FORWARD, 0.03125, FIRST_NOISE)
        for part in sorted(parts):
            values = parts[part]
            columns = FEED_FORWARD if part == "ffn_down" else WIDTH
            shape = (WIDTH,) if part.endswith("norm") else (columns, len(values) // columns)
            listed.append((f"blk.{layer}.{part}.weight", shape, values))
    return listed


def _string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _field(key: str, value) -> bytes:
    """One metadata entry: str, bool, int (uint32), float (float32), list of str or list of int."""
    if isinstance(value, str):
        return _string(key) + struct.pack("<I", 8) + _string(value)
    if isinstance(value, bool):
        return _string(key) + struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return _string(key) + struct.pack("<II", 4, value)
    if isinstance(value, float):
        return _string(key) + struct.pack("<If", 6, value)
    if isinstance(value[0], str):
        return _string(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_string(item) for item in value)
    return _string(key) + struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)


def metadata(vocab: Vocabulary) -> dict:
    return {
        "general.architecture": "llama",
        "general.name": NAME,
        "general.description": "Made from a seed, not trained. It speaks words, not sense.",
        "general.license": "cc0-1.0",
        "general.file_type": 0,
        "llama.vocab_size": len(vocab.text),
        "llama.context_length": CONTEXT,
        "llama.embedding_length": WIDTH,
        "llama.block_count": LAYERS,
        "llama.feed_forward_length": FEED_FORWARD,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": HEAD_WIDTH,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": vocab.text,
        "tokenizer.ggml.token_type": vocab.kind,
        "tokenizer.ggml.merges": merges(),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": END_OF_TURN,
        "tokenizer.ggml.eot_token_id": END_OF_TURN,
        "tokenizer.ggml.padding_token_id": PAD,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def build() -> bytes:
    """The whole file."""
    vocab = vocabulary()
    fields = metadata(vocab)
    listed = tensors(vocab)
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(listed), len(fields)))
    for key, value in fields.items():
        out += _field(key, value)
    offset, blobs = 0, []
    for name, shape, values in listed:
        out += _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)
        if sys.byteorder == "big":
            values = array("f", values)
            values.byteswap()
        blob = values.tobytes()
        blob += bytes(-len(blob) % 32)
        offset += len(blob)
        blobs.append(blob)
    out += bytes(-len(out) % 32)
    return bytes(out) + b"".join(blobs)
