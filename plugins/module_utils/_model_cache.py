# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE. The shared read-only cache of models: fetch, check, publish, prune.

Layout: <root>/<name>/<first 12 of sha256>/<file>. A download grows in <root>/.partial/<sha256>, its digest is checked
there, and only then it is renamed into place. <root>/.verified.json remembers size, time and inode of every file whose
digest was checked, so that a later run does not read 100 GB again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import stat
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field

from . import _demo_model, _gguf
from ._files import sync_directory, write_atomic

MIB = 1024 * 1024
CHUNK = MIB
HEAD_LIMIT = 32 * MIB  # how much of a file is read at most to learn its metadata
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,200}")
DIGEST = re.compile(r"[0-9a-f]{64}")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,200}")
SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
PLACEHOLDER = re.compile(
    r"(?i)//[^/]*(\bexample\.(com|org|net)|\.example|\.invalid)(:|/|$)|replace[-_]?(me|this|with)|changeme|"
    r"\byour[-_](model|repo|org|name|token)"
)
RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}
VERIFIED, PARTIAL, PROGRESS, LOCK = ".verified.json", ".partial", ".progress.json", ".lock"
#: What the files in place should be, for whoever mounts the cache.
MANIFEST = "manifest.json"


class ModelError(Exception):
    """Everything that is wrong, as a list of {where, what, fix}."""

    def __init__(self, problems: list) -> None:
        self.problems = problems
        super().__init__(" ".join(f"{p['where']}: {p['what']} {p['fix']}" for p in problems))


class _Again(Exception):
    """A failure that a later attempt may not have."""

    def __init__(self, what: str, after: float = 0.0) -> None:
        self.what = what
        self.after = after
        super().__init__(what)


def problem(where: str, what: str, fix: str) -> dict:
    return {"where": where, "what": what, "fix": fix}


def human(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024 or unit == "GiB":
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return ""


def parse_size(text) -> int:
    """Bytes of 512, 512m, 2g, 1.5GiB; raises ValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?\s*", str(text).lower())
    if not match:
        raise ValueError(text)
    return int(float(match.group(1)) * 1024 ** " kmgt".index(match.group(2).replace("b", "") or " "))


@dataclass
class Model:
    """One wanted model, checked."""

    name: str
    sha256: str
    file: str
    url: str = ""
    demo: bool = False
    token_file: str = ""
    context: int = 0
    cache_k: str = "f16"
    cache_v: str = "f16"
    memory: int = 0
    size: int = 0
    where: str = "models"

    @property
    def place(self) -> str:
        return os.path.join(self.name, self.sha256[:12], self.file)

    @property
    def shown(self) -> str:
        """The source without anything that could be a secret."""
        if self.demo:
            return "the demo model"
        parts = urllib.parse.urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@dataclass
class Settings:
    root: str = "/var/lib/mcpstack/models"
    endpoint: str = "https://huggingface.co"
    memory_limit: int = 0
    prompt_cache: int = 0
    headroom: int = 1024 * MIB
    verify: str = "changed"
    prune: bool = False
    retries: int = 5
    backoff: float = 2.0
    timeout: float = 30.0
    check_mode: bool = False
    defer: bool = False
    owner: int | None = None


@dataclass
class Outcome:
    """What a run did, or would do in check mode."""

    changed: bool = False
    deferred: bool = False
    busy: bool = False
    models: dict = field(default_factory=dict)
    removed: list = field(default_factory=list)
    fixed: list = field(default_factory=list)
    bytes: int = 0
    seconds: float = 0.0


# --- options -----------------------------------------------------------------------------------------------------


def read_models(entries: list, endpoint: str) -> list:
    """Checked models, or ModelError with every problem of every entry."""
    models, problems, seen = [], [], {}
    for number, entry in enumerate(entries):
        where = f"models[{number}]"
        found: list = []
        model = _read_model(entry, where, endpoint, found)
        problems += found
        name = entry.get("name") or ""
        if name and name in seen:
            problems.append(
                problem(f"{where}.name", f"{name!r} names {seen[name]} already.", "Give each model its own name.")
            )
        seen.setdefault(name, where)
        if not found:
            models.append(model)
    if problems:
        raise ModelError(problems)
    return models


def _read_model(entry: dict, where: str, endpoint: str, problems: list) -> Model | None:
    def say(option: str, what: str, fix: str) -> None:
        problems.append(problem(f"{where}.{option}" if option else where, what, fix))

    name, digest = str(entry.get("name") or ""), str(entry.get("sha256") or "").lower()
    if not NAME.fullmatch(name):
        say("name", f"{name!r} is not a usable name.", "Use lower-case letters, digits, dot, dash and underscore.")
    sources = [key for key in ("url", "hf", "demo") if entry.get(key)]
    if len(sources) != 1:
        have = " and ".join(sources) if sources else "none"
        say("", f"exactly one source is needed, {have} given.", "Set one of url, hf or demo: true.")
        return None
    model = Model(name=name, sha256=digest, file="", where=where, token_file=entry.get("token_file") or "")
    for option, attribute in (("memory", "memory"), ("size", "size")):
        if entry.get(option):
            try:
                setattr(model, attribute, parse_size(entry[option]))
            except ValueError:
                say(option, f"{entry[option]!r} is not a size.", "Write it like 4831838208, 4500m or 4.5g.")
    model.context = entry.get("context") or 0
    if model.context < 0:
        say("context", f"{model.context} is negative.", "Give the number of tokens of all slots together.")
    for option, attribute in (("cache_type_k", "cache_k"), ("cache_type_v", "cache_v")):
        value = entry.get(option) or "f16"
        if value not in _gguf.CACHE_TYPES:
            say(option, f"{value!r} is not a cache type.", "Use one of " + ", ".join(_gguf.CACHE_TYPES) + ".")
            value = "f16"
        setattr(model, attribute, value)
    if entry.get("demo"):
        model.demo, model.file, model.sha256 = True, _demo_model.FILE_NAME, _demo_model.SHA256
        if digest and digest != _demo_model.SHA256:
            say("sha256", "the demo model has a digest of its own.", "Leave sha256 out.")
        return model
    if not DIGEST.fullmatch(digest):
        say(
            "sha256",
            "is missing." if not digest else f"{digest!r} is not a SHA-256 digest.",
            "Give the 64 hexadecimal digits that the publisher of the file states (sha256sum FILE prints them).",
        )
    elif len(set(digest)) < 4:
        say("sha256", "is a placeholder.", "Give the digest that the publisher of the file states.")
    _read_source(entry, model, endpoint, say)
    if SHARD.search(model.file):
        say(
            "",
            f"{model.file} is one part of a split model.",
            "Join the parts with llama-gguf-split --merge and serve the whole file.",
        )
    return model


def _read_source(entry: dict, model: Model, endpoint: str, say) -> None:
    if entry.get("url"):
        option, model.url = "url", str(entry["url"])
    else:
        option, hub = "hf", entry["hf"]
        file, revision = str(hub.get("file") or ""), str(hub.get("revision") or "")
        if not REPOSITORY.fullmatch(str(hub.get("repository") or "")):
            say(
                "hf.repository",
                f"{hub.get('repository')!r} is not OWNER/NAME.",
                "Copy it from the address of the model page.",
            )
        if not REVISION.fullmatch(revision) or ".." in revision:
            say(
                "hf.revision",
                f"{revision!r} is not a revision.",
                "Give a commit (40 hexadecimal digits), a tag or a branch.",
            )
        if not file or ".." in file or file.startswith("/"):
            say("hf.file", f"{file!r} is not a file of the repository.", "Give its path inside the repository.")
        pieces = (str(hub.get("repository") or ""), "resolve", revision.replace("/", "%2F"), urllib.parse.quote(file))
        model.url = "/".join((endpoint.rstrip("/"), *pieces))
    try:
        parts = urllib.parse.urlsplit(model.url)
        host, userinfo = parts.hostname or "", parts.username or parts.password
    except ValueError:
        say(option, "is not a URL.", "Write https://HOST/PATH, http://HOST/PATH or file:///PATH.")
        return
    if parts.scheme not in ("http", "https", "file") or (parts.scheme != "file" and not host) or not parts.path:
        say(
            option,
            f"{model.shown!r} is not a URL this module fetches.",
            "Write https://HOST/PATH, http://HOST/PATH or file:///PATH.",
        )
        return
    if userinfo:
        say(option, "holds a user name or password.", "Put the token into a file and name it in token_file.")
    model.file = urllib.parse.unquote(parts.path).rpartition("/")[2]
    if not FILE.fullmatch(model.file):
        say(
            option,
            f"{model.file!r} is not a usable file name.",
            "Name a file with letters, digits, dot, dash, plus and underscore.",
        )
    if PLACEHOLDER.search(model.url):
        say(option, f"{model.shown} is a placeholder.", "Name the real source of the model.")
    if model.token_file:
        if not model.token_file.startswith("/"):
            say("token_file", f"{model.token_file!r} is not an absolute path.", "Name the file on the target host.")
        if parts.scheme == "file" or (parts.scheme == "http" and host not in ("127.0.0.1", "localhost", "::1")):
            say(
                "token_file",
                f"a token is not sent to {parts.scheme}: addresses.",
                "Use https:, or leave token_file out.",
            )


# --- HTTP --------------------------------------------------------------------------------------------------------


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to https, or to the same scheme; the token stays with the host it was meant for."""

    max_redirections = 5

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if new.scheme != "https" and new.scheme != old.scheme:
            raise urllib.error.URLError(f"redirect:{new.scheme}")
        if new.scheme not in ("http", "https"):
            raise urllib.error.URLError(f"redirect:{new.scheme}")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and (old.hostname, old.port, old.scheme) != (new.hostname, new.port, new.scheme):
            request.headers.pop("Authorization", None)
            request.unredirected_hdrs.pop("Authorization", None)
        return request


def _status_problem(model: Model, status: int) -> dict:
    say = {
        401: ("answers 401: it wants a token.", "Put a read token into a file on the host and name it in token_file."),
        403: (
            "answers 403: the token may not read this file.",
            "Accept the terms of the model on its page, or use a token with read access to it.",
        ),
        404: ("answers 404: there is no such file.", "Check repository, revision and file name, letter by letter."),
        407: ("was not reached: the proxy answers 407.", "Give the proxy's user and password in https_proxy."),
        410: ("answers 410: the file was taken down.", "Choose another source."),
    }
    what, fix = say.get(status, (f"answers {status}.", "Open the address from this host to see why."))
    return problem(model.where, f"{model.shown} {what}", fix)


class Source:
    """Opens a model's bytes at an offset. Turns every failure into ModelError (final) or _Again."""

    def __init__(self, model: Model, timeout: float) -> None:
        self.model = model
        self.timeout = timeout
        self.opener = urllib.request.build_opener(_Redirects())
        self.local = model.url.startswith("file:")

    def _token(self) -> str:
        path = self.model.token_file
        where = f"{self.model.where}.token_file"
        try:
            mode = os.stat(path).st_mode
            with open(path, encoding="ascii") as handle:
                token = handle.read().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not plain text"
            raise ModelError(
                [problem(where, f"{path} cannot be read: {reason}.", "Write the token into it on the host, mode 0400.")]
            ) from None
        if mode & stat.S_IRWXO:
            raise ModelError([problem(where, f"{path} is open to every user of the host.", f"chmod 0400 {path}")])
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise ModelError(
                [problem(where, f"{path} does not hold one token.", "Write the token, and nothing else, into it.")]
            )
        return token

    def open(self, offset: int = 0, etag: str = "") -> tuple:
        """(stream, first byte it delivers, total size or None, etag)."""
        if self.local:
            return self._open_local(offset)
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            self.model.url, headers={"User-Agent": "mcpstack", "Accept-Encoding": "identity"}
        )
        if self.model.token_file:
            request.add_header("Authorization", f"Bearer {self._token()}")
        if offset:
            request.add_header("Range", f"bytes={offset}-")
            if etag:
                request.add_header("If-Range", etag)
        try:
            answer = self.opener.open(request, timeout=self.timeout)  # only http and https get here
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416:
                    return None, 0, _content_range(error.headers.get("Content-Range"))[1], ""
                if error.code in RETRY_STATUS:
                    raise _Again(f"answers {error.code}", _retry_after(error.headers)) from None
                raise ModelError([_status_problem(self.model, error.code)]) from None
        except urllib.error.URLError as error:
            reason = str(error.reason)
            if reason.startswith("redirect:"):
                raise ModelError(
                    [
                        problem(
                            self.model.where,
                            f"{self.model.shown} redirects to a {reason[9:]}: address.",
                            "Only redirects to https: are followed; name the final address yourself.",
                        )
                    ]
                ) from None
            raise _Again(f"cannot be reached ({reason})") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Again(f"cannot be reached ({str(error) or type(error).__name__})") from None
        tag = answer.headers.get("ETag") or ""
        tag = "" if tag.startswith("W/") else tag
        length = answer.headers.get("Content-Length")
        if answer.status == 206:
            first, total = _content_range(answer.headers.get("Content-Range"))
            if first == offset:
                return answer, first, total, tag
            answer.close()
            if not offset:
                raise _Again("answers with the wrong part of the file")
            return self.open()
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            answer.close()
            raise ModelError(
                [
                    problem(
                        self.model.where,
                        f"{self.model.shown} is sent compressed.",
                        "Name an address that serves the file as it is.",
                    )
                ]
            )
        return answer, 0, int(length) if length and length.isdigit() else None, tag

    def _open_local(self, offset: int) -> tuple:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.model.url).path)
        try:
            handle = open(path, "rb")  # noqa: SIM115 - the caller closes it
            handle.seek(offset)
            return handle, offset, os.fstat(handle.fileno()).st_size, ""
        except OSError as error:
            raise ModelError(
                [
                    problem(
                        self.model.where,
                        f"{path} cannot be read: {error.strerror}.",
                        "Copy the file to the host, or correct the path.",
                    )
                ]
            ) from None


def _content_range(text) -> tuple:
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", text or "")
    if not match:
        return -1, None
    return int(match.group(1) or -1), int(match.group(2)) if match.group(2) != "*" else None


def _retry_after(headers) -> float:
    text = headers.get("Retry-After") or ""
    return min(float(text), 60.0) if text.isdigit() else 0.0


# --- the cache ---------------------------------------------------------------------------------------------------


class Cache:
    def __init__(self, settings: Settings, sleep=time.sleep, clock=time.monotonic) -> None:
        self.settings = settings
        self.sleep = sleep
        self.clock = clock
        self.outcome = Outcome()

    def path(self, *parts: str) -> str:
        return os.path.join(self.settings.root, *parts)

    def ensure(self, models: list) -> Outcome:
        started = self.clock()
        if self.settings.check_mode:
            self._work(models)
        else:
            self._directory(self.settings.root)
            with self._locked() as ours:
                if ours:
                    self._work(models)
                else:
                    self.outcome.deferred = self.outcome.busy = True
        self.outcome.seconds = round(self.clock() - started, 3)
        return self.outcome

    def _work(self, models: list) -> None:
        missing, facts, problems = [], {}, []
        if self.settings.defer and not self.settings.check_mode and any(map(self._is_large, models)):
            self.outcome.deferred = self.outcome.changed = True
            return
        for model in models:
            if self._is_present(model):
                facts[model.name] = self._local_facts(model)
                self._note(model, "present", facts[model.name])
            else:
                missing.append(model)
        fetched = [model for model in missing if not model.demo]
        if self.settings.check_mode:
            for model in missing:
                self._note(model, "would_generate" if model.demo else "would_download", None)
            problems += self._memory_problems(models, facts)
        elif not (fetched and self.settings.defer):
            for model in missing:
                try:
                    facts[model.name] = self._probe(model)
                except ModelError as error:
                    problems += error.problems
            problems += self._disk_problems(missing, facts) + self._memory_problems(models, facts)
        if problems:
            raise ModelError(problems)
        if missing:
            self.outcome.changed = True
        if self.settings.check_mode:
            self._prune(models)
            if not missing:
                self._tell(models)
            return
        if fetched and self.settings.defer:
            self.outcome.deferred = True
            return
        for model in missing:
            self._fetch(model, facts[model.name])
            self._note(model, "generated" if model.demo else "downloaded", facts[model.name])
        self._modes(models)
        self._prune(models)
        self._tell(models)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(PROGRESS))

    def _note(self, model: Model, state: str, facts) -> None:
        entry = {"path": self.path(model.place), "file": model.file, "sha256": model.sha256, "state": state}
        entry["source"] = model.shown
        if facts:
            entry["bytes"] = facts["size"]
            entry["memory"] = facts["memory"]
        self.outcome.models[model.name] = entry

    # What is there already

    def _manifest(self) -> dict:
        try:
            with open(self.path(VERIFIED), encoding="utf-8") as handle:
                stored = json.load(handle)
            return stored if isinstance(stored, dict) else {}
        except (OSError, ValueError):
            return {}

    def _remember(self, model: Model) -> None:
        manifest = self._manifest()
        manifest[model.place] = self._identity(model)
        known = {place: entry for place, entry in manifest.items() if os.path.lexists(self.path(place))}
        self._write_json(VERIFIED, known)

    def _identity(self, model: Model):
        try:
            found = os.lstat(self.path(model.place))
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return {"sha256": model.sha256, "size": found.st_size, "mtime": found.st_mtime_ns, "inode": found.st_ino}

    def _is_present(self, model: Model) -> bool:
        """In place, and its digest was checked: now, or earlier and untouched since."""
        identity = self._identity(model)
        if not identity:
            return False
        remembered = self._manifest().get(model.place) == identity
        if remembered and self.settings.verify != "always":
            return True
        if self._digest(self.path(model.place), model) != model.sha256:
            return False
        if not remembered and not self.settings.check_mode:
            self._remember(model)
        return True

    def _is_large(self, model: Model) -> bool:
        """Reading it takes long enough that progress should be seen."""
        identity = self._identity(model)
        return bool(identity) and identity["size"] > 256 * MIB and self._manifest().get(model.place) != identity

    def _digest(self, path: str, model: Model) -> str:
        digest, done, total = hashlib.sha256(), 0, os.stat(path).st_size
        with open(path, "rb") as handle:
            while piece := handle.read(CHUNK):
                digest.update(piece)
                done += len(piece)
                self._progress(model, "checking", done, total)
        return digest.hexdigest()

    # What it would take

    def _local_facts(self, model: Model) -> dict:
        path = self.path(model.place)
        with open(path, "rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            return self._facts(model, self._head(model, handle, size), size)

    def _facts(self, model: Model, head: dict, size: int, etag: str = "") -> dict:
        need = _gguf.memory_need(head, size, model.context, model.cache_k, model.cache_v)
        return {"size": size, "etag": etag, "need": need, "memory": model.memory or need["total"]}

    def _head(self, model: Model, stream, size: int | None = None) -> dict:
        data = b""
        while True:
            piece = stream.read(256 * 1024 if len(data) < 4 * MIB else 4 * MIB)
            data += piece
            try:
                return _gguf.read_head(data, complete=len(data) == size or len(data) >= HEAD_LIMIT)
            except _gguf.NeedMore:
                if not piece:
                    raise _Again(f"breaks off after {human(len(data))}") from None
            except _gguf.NotGguf as error:
                raise ModelError(
                    [
                        problem(
                            model.where,
                            f"{model.shown} is not a GGUF model: {error}.",
                            "Name a .gguf file; other formats are not served.",
                        )
                    ]
                ) from None

    def _probe(self, model: Model) -> dict:
        """Size and memory of a model that is not here yet, from its first bytes."""
        if model.demo:
            data = _demo_model.build()
            return {**self._facts(model, _gguf.read_head(data), len(data)), "data": data}

        def attempt():
            stream, _first, size, etag = Source(model, self.settings.timeout).open()
            with stream:
                try:
                    head = self._head(model, stream, size)
                except http.client.IncompleteRead as error:
                    raise _Again(f"breaks off after {human(len(error.partial))}") from None
                except (OSError, http.client.HTTPException) as error:
                    raise _Again(f"breaks off ({str(error) or type(error).__name__})") from None
            return head, size, etag

        head, size, etag = self._patiently(model, attempt)
        if size is None and not model.size:
            raise ModelError(
                [
                    problem(
                        model.where,
                        f"{model.shown} does not say how large it is.",
                        "Set size to the number of bytes its publisher states.",
                    )
                ]
            )
        if size is not None and model.size and size != model.size:
            raise ModelError(
                [
                    problem(
                        f"{model.where}.size",
                        f"{model.shown} has {size} bytes, not {model.size}.",
                        "Correct size, or leave it out.",
                    )
                ]
            )
        return self._facts(model, head, size or model.size, etag)

    def _disk_problems(self, missing: list, facts: dict) -> list:
        listed = [model for model in missing if model.name in facts]
        need = sum(max(0, facts[m.name]["size"] - self._partial_size(m)) for m in listed)
        free = shutil.disk_usage(self.settings.root).free
        if not listed or need + self.settings.headroom <= free:
            return []
        names = ", ".join(f"{m.name} {human(facts[m.name]['size'])}" for m in listed)
        return [
            problem(
                "models",
                f"{human(need)} are to be fetched ({names}) and {human(self.settings.headroom)} kept free, "
                f"but {self.settings.root} has {human(free)} free.",
                "Free space, list fewer models, or prune models that are no longer listed.",
            )
        ]

    def _memory_problems(self, models: list, facts: dict) -> list:
        known = [model for model in models if model.name in facts]
        total = sum(facts[m.name]["memory"] for m in known) + (self.settings.prompt_cache if known else 0)
        limit, of = self.settings.memory_limit, "the memory limit of the model server"
        host = host_memory()
        if not limit or (host and host < limit):
            limit, of = host, "the memory of this host"
        if not limit or total <= limit:
            return []
        parts = []
        for model in known:
            need = facts[model.name]["need"]
            parts.append(
                f"{model.name} {human(model.memory)} as stated"
                if model.memory
                else f"{model.name} {human(need['total'])}: weights {human(need['weights'])}, "
                f"context {human(need['context'])}, computing {human(need['compute'] + need['base'])}"
            )
        return [
            problem(
                "models",
                f"{human(total)} are needed ({'; '.join(parts)}), but {of} is {human(limit)}.",
                "Raise the limit, lower the context or the parallel slots, or choose a smaller model or quantization.",
            )
        ]

    # Fetching

    def _partial_path(self, model: Model) -> str:
        return self.path(PARTIAL, model.sha256)

    def _partial_size(self, model: Model) -> int:
        try:
            return os.stat(self._partial_path(model)).st_size
        except OSError:
            return 0

    def _patiently(self, model: Model, attempt):
        """Calls attempt until it works; gives up after so many failures in a row."""
        failures, before = 0, self._partial_size(model)
        while True:
            try:
                return attempt()
            except _Again as error:
                now = self._partial_size(model)
                failures = 1 if now >= before + MIB else failures + 1
                before = max(now, before)
                if failures > self.settings.retries:
                    raise ModelError(
                        [
                            problem(
                                model.where,
                                f"{model.shown} {error.what}; {failures} attempts failed.",
                                "Check network, proxy and address, then run again: what was fetched is kept.",
                            )
                        ]
                    ) from None
                self.sleep(error.after or min(self.settings.backoff * 2 ** (failures - 1), 60.0))

    def _fetch(self, model: Model, facts: dict) -> None:
        self._directory(self.path(PARTIAL), 0o700)
        part = self._partial_path(model)
        if model.demo:
            with open(part, "wb") as handle:
                handle.write(facts["data"])
                handle.flush()
                os.fsync(handle.fileno())
            digest = hashlib.sha256(facts["data"]).hexdigest()
        else:
            resumed = self._partial_size(model)
            digest = self._patiently(model, lambda: self._download(model, facts))
            if digest != model.sha256 and resumed:  # the kept part may come from another version of the file
                _truncate(part)
                digest = self._patiently(model, lambda: self._download(model, facts))
        if digest != model.sha256:
            for leftover in (part, part + ".json"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(leftover)
            raise ModelError(
                [
                    problem(
                        model.where,
                        f"{model.shown} has the digest {digest}, not {model.sha256}; nothing of it was kept.",
                        "Compare both with what the publisher states. If the file was changed there on purpose, "
                        "state the new digest; else do not use it.",
                    )
                ]
            )
        target = self.path(model.place)
        self._directory(os.path.dirname(os.path.dirname(target)))
        self._directory(os.path.dirname(target))
        os.chmod(part, 0o644)
        self._own(part)
        os.rename(part, target)
        sync_directory(os.path.dirname(target))
        self._remember(model)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part + ".json")

    def _download(self, model: Model, facts: dict) -> str:
        """One attempt; continues a partial file when the server still has the same one. Returns the digest."""
        part = self._partial_path(model)
        note = {"source": model.shown, "size": facts["size"], "etag": facts["etag"]}
        have = self._partial_size(model) if _read_json(part + ".json") == note else 0
        if have > facts["size"]:
            have = 0
        digest = hashlib.sha256()
        stream, first = None, have
        if have < facts["size"] or not have:
            stream, first, size, _etag = Source(model, self.settings.timeout).open(have, facts["etag"])
            if stream is None or (size is not None and size != facts["size"]):
                _truncate(part)
                with contextlib.suppress(AttributeError):
                    stream.close()
                raise _Again("changed while it was being fetched")
        self._write_json(os.path.join(PARTIAL, model.sha256 + ".json"), note)
        with open(part, "ab") as handle:
            handle.truncate(first)
        if first:
            with open(part, "rb") as handle:
                while piece := handle.read(CHUNK):
                    digest.update(piece)
        if stream is not None:
            with stream, open(part, "ab") as handle:
                self._copy(model, facts["size"], first, stream, handle, digest)
        return digest.hexdigest()

    def _copy(self, model: Model, size: int, done: int, stream, handle, digest) -> None:
        while True:
            try:
                piece = stream.read1(CHUNK) if hasattr(stream, "read1") else stream.read(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                handle.flush()
                raise _Again(
                    f"breaks off at {human(done)} of {human(size)} ({str(error) or type(error).__name__})"
                ) from None
            if not piece:
                break
            done += len(piece)
            if done > size:
                _truncate(handle.name)
                raise _Again(f"sends more than the {human(size)} it announced")
            try:
                handle.write(piece)
            except OSError as error:
                raise ModelError(
                    [
                        problem(
                            "models",
                            f"{handle.name} cannot be written: {error.strerror}.",
                            "Free space and run again: what was fetched is kept.",
                        )
                    ]
                ) from None
            digest.update(piece)
            self.outcome.bytes += len(piece)
            self._progress(model, "fetching", done, size)
        handle.flush()
        os.fsync(handle.fileno())
        if done < size:
            raise _Again(f"breaks off at {human(done)} of {human(size)}")

    _last = (0.0, 0, 0.0)

    def _progress(self, model: Model, state: str, done: int, total: int) -> None:
        if self.settings.check_mode:
            return
        now, (last, before, rate) = self.clock(), self._last
        if now - last < 1.0 and done < total:
            return
        if last and done > before and now > last:
            rate = (done - before) / (now - last)
        self._last = (now, done, rate)
        with contextlib.suppress(OSError):
            self._write_json(
                PROGRESS,
                {"name": model.name, "state": state, "done": done, "total": total, "rate": int(rate)},
                sync=False,
            )

    # Files

    @contextlib.contextmanager
    def _locked(self):
        """Waits for another run; yields False instead when waiting is to be left to a later, watched call."""
        with open(self.path(LOCK), "a", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if self.settings.defer else 0))
            except BlockingIOError:
                yield False
                return
            yield True

    def _own(self, path: str) -> None:
        if self.settings.owner is not None:
            os.chown(path, self.settings.owner, self.settings.owner, follow_symlinks=False)

    def _directory(self, path: str, mode: int = 0o755) -> None:
        if not os.path.isdir(path):
            os.makedirs(path, exist_ok=True)
            os.chmod(path, mode)
            self._own(path)
            self.outcome.changed = True

    def _write_json(self, name: str, content: dict, sync: bool = True) -> None:
        write_atomic(self.path(name), json.dumps(content, sort_keys=True).encode(), sync=sync)

    def _modes(self, models: list) -> None:
        """Files 0644, directories 0755, all of the owner."""
        wanted = {self.settings.root: 0o755}
        for model in models:
            path = self.path(model.place)
            wanted[path] = 0o644
            for parent in (os.path.dirname(path), os.path.dirname(os.path.dirname(path))):
                wanted[parent] = 0o755
        for path, mode in wanted.items():
            found = os.stat(path)
            owner = self.settings.owner
            wrong_owner = owner is not None and (found.st_uid, found.st_gid) != (owner, owner)
            if stat.S_IMODE(found.st_mode) != mode or wrong_owner:
                os.chmod(path, mode)
                self._own(path)
                self.outcome.fixed.append(path)
                self.outcome.changed = True

    def _tell(self, models: list) -> None:
        """The manifest, written when it is another than before."""
        files = [
            {"name": model.place, "sha256": model.sha256, "size": os.lstat(self.path(model.place)).st_size}
            for model in sorted(models, key=lambda model: model.place)
        ]
        path = self.path(MANIFEST)
        if _read_json(path) == {"files": files}:
            return
        self.outcome.changed = True
        if not self.settings.check_mode:
            write_atomic(path, json.dumps({"files": files}).encode(), mode=0o644)

    def _prune(self, models: list) -> None:
        """Models that are no longer listed, and downloads nobody waits for. Foreign files are left alone."""
        if not self.settings.prune or not os.path.isdir(self.settings.root):
            return
        keep = {os.path.dirname(model.place) for model in models}
        digests = {model.sha256 for model in models}
        doomed = []
        for name in sorted(os.listdir(self.settings.root)):
            if not NAME.fullmatch(name) or not os.path.isdir(self.path(name)):
                continue
            versions = [entry for entry in sorted(os.listdir(self.path(name))) if re.fullmatch("[0-9a-f]{12}", entry)]
            doomed += [os.path.join(name, entry) for entry in versions if os.path.join(name, entry) not in keep]
        if os.path.isdir(self.path(PARTIAL)):
            doomed += [
                os.path.join(PARTIAL, n)
                for n in sorted(os.listdir(self.path(PARTIAL)))
                if n.split(".")[0] not in digests
            ]
        for place in doomed:
            self.outcome.changed = True
            self.outcome.removed.append(self.path(place))
            if self.settings.check_mode:
                continue
            if os.path.isdir(self.path(place)):
                shutil.rmtree(self.path(place))
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.dirname(self.path(place)))
            else:
                os.unlink(self.path(place))


def host_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _truncate(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.truncate(path, 0)


def _read_json(path: str):
    try:
        with open(path, encoding="utf-8") as handle:
            return json.load(handle)
    except (OSError, ValueError):
        return None
