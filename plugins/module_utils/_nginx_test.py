# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask an nginx program whether a configuration is valid, without the names, ports, accounts and files it would need.

PRIVATE: internal to the collection, may change in any release. Standard library only.

nginx -t looks up every upstream, binds every port, opens every log and reads every key. So a copy is tested in which
names are 127.0.0.1, addresses are free ports of loopback, logs and temporary files lie in a directory of ours, and
certificates are read at the handshake only (which a test never has). Everything else is nginx's own judgement. What it
says is translated back to the line of the original.
"""

from __future__ import annotations

import ipaddress
import os
import re
import subprocess
import tempfile

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import clean
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_nginx import Tested
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_parse import DATA_BLOCKS, Directive, Tree

TIMEOUT = 20
FIRST_PORT, MAX_PORTS = 39000, 2000
PASSES = ("proxy_pass", "grpc_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "memcached_pass", "auth_http")
#: Left out of the copy: they need an account, a file or a device, and are judged elsewhere.
DROPPED = (
    "user",
    "daemon",
    "working_directory",
    "ssl_engine",
    "lock_file",
    "worker_cpu_affinity",
    "worker_priority",
    "debug_points",
    "ssl_password_file",
    "google_perftools_profiles",
    "ssl_stapling_file",
    "ssl_session_ticket_key",
    "ssl_dhparam",
    "ssl_crl",
    "proxy_ssl_crl",
    "proxy_ssl_password_file",
    "thread_pool_file",
    "perl_modules",
    "ssl_ocsp_cache",
)
#: Need a certificate of authorities that is not read here.
TRUST = (
    "ssl_client_certificate",
    "ssl_trusted_certificate",
    "proxy_ssl_trusted_certificate",
    "grpc_ssl_trusted_certificate",
    "uwsgi_ssl_trusted_certificate",
)
VERIFY = (
    "ssl_verify_client",
    "proxy_ssl_verify",
    "grpc_ssl_verify",
    "uwsgi_ssl_verify",
    "ssl_ocsp",
    "ssl_stapling",
    "ssl_stapling_verify",
)
CERTIFICATES = (
    "ssl_certificate",
    "ssl_certificate_key",
    "proxy_ssl_certificate",
    "proxy_ssl_certificate_key",
    "grpc_ssl_certificate",
    "grpc_ssl_certificate_key",
    "uwsgi_ssl_certificate",
    "uwsgi_ssl_certificate_key",
)
TEMPORARY = ("client_body_temp_path", "proxy_temp_path", "fastcgi_temp_path", "uwsgi_temp_path", "scgi_temp_path")
#: What the place of the test refuses, not the configuration.
SURROUNDINGS = re.compile(
    r"bind\(\)|Permission denied|host not found|getpwnam|getgrnam|Operation not permitted|No space left|Too many open files|Cannot"
    r" allocate|socket\(\)|mkdir\(\)|dlopen\(\)|module .* is not binary compatible"
)


def _quote(word: str) -> str:
    """A word that nginx reads back as it is."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Copy:
    """The text of the copy, with the original of each of its lines."""

    def __init__(self, tree: Tree, directory: str):
        self.tree, self.directory = tree, directory
        self.lines: list[str] = []
        self.origin: list[str] = []
        self.ports: dict[str, int] = {}
        self.groups = {item.args[0].lower() for item in tree.root.walk() if item.name == "upstream" and item.args}

    def write(self) -> str:
        stack = [(self.tree.root, iter(self.tree.root.block or ()))]
        self.put(f"pid {self.directory}/pid", "")
        if not any(item.name == "error_log" for item in self.tree.root.block or ()):
            self.put(f"error_log {self.directory}/error", "")
        while stack:
            block, items = stack[-1]
            for item in items:
                if item.block is None:
                    self.directive(item, block)
                    continue
                self.put(
                    " ".join([self.word(item.name, block), *(_quote(word) for word in item.args)]) + " {",
                    item.where,
                    "",
                )
                if item.name == "http":
                    if not item.find("access_log"):
                        self.put(f"access_log {self.directory}/access_log", "")
                    for name in TEMPORARY:
                        self.put(f"{name} {self.directory}/{name}", "")
                stack.append((item, iter(item.block)))
                break
            else:
                stack.pop()
                if stack:
                    self.put("}", "", "")
        return "\n".join(self.lines) + "\n"

    def put(self, text: str, where: str, end: str = ";") -> None:
        # A word may hold line breaks; each line of the copy must lead back to one directive.
        for part in (text + end).split("\n"):
            self.lines.append(part)
            self.origin.append(where)

    @staticmethod
    def word(name: str, block: Directive) -> str:
        return _quote(name) if block.name in DATA_BLOCKS or not re.fullmatch(r"[A-Za-z0-9_]+", name) else name

    def directive(self, item: Directive, block: Directive) -> None:
        name, args = item.name, list(item.args)
        if block.name in DATA_BLOCKS:
            self.put(" ".join([_quote(name), *(_quote(word) for word in args)]), item.where)
            return
        if name in (*DROPPED, *TRUST, *VERIFY, *TEMPORARY) or (name == "pid" and block is self.tree.root):
            return
        if name in CERTIFICATES and args and "$" not in args[0]:
            # With a variable nginx reads the file when somebody connects.
            args = [f"{self.directory}/$hostname"]
        elif name == "listen" and args:
            args = self.listen(args)
        elif (
            name in ("error_log", "access_log")
            and args
            and not args[0].startswith(("syslog:", "memory:", "off" if name == "access_log" else "stderr"))
            and "$" not in args[0]
        ):
            args[0] = f"{self.directory}/{name}"
        elif name in PASSES and args:
            args[0] = self.target(args[0])
        elif name == "server" and block.name == "upstream" and args:
            args[0] = self.target(args[0], upstream=True)
        elif name == "resolver":
            args = [word if "=" in word or self.is_address(word) else "127.0.0.1" for word in args]
        elif (
            name in ("proxy_cache_path", "fastcgi_cache_path", "uwsgi_cache_path", "scgi_cache_path", "proxy_store")
            and args
            and args[0].startswith("/")
        ):
            args[0] = f"{self.directory}/cache{len(self.lines)}"
        elif (
            name == "set_real_ip_from"
            and args
            and not args[0].startswith("unix:")
            and not self.is_address(args[0].partition("/")[0])
        ):
            args[0] = "127.0.0.1"
        self.put(" ".join([name, *(_quote(word) for word in args)]), item.where)

    @staticmethod
    def is_address(word: str) -> bool:
        bare = re.sub(r":[0-9]+$", "", word) if word.count(":") == 1 or word.startswith("[") else word
        try:
            ipaddress.ip_address(bare.strip("[]"))
        except ValueError:
            return False
        return True

    def listen(self, args: list[str]) -> list[str]:
        """The same socket for equal addresses, on loopback, on a port that nobody needs rights for."""
        value = args[0]
        if value.startswith("unix:"):
            port = self.ports.setdefault(value, FIRST_PORT + len(self.ports))
            return [f"unix:{self.directory}/{port}", *args[1:]]
        value = f"*:{value}" if value.isdigit() else value
        if not re.search(r":[0-9]+$", value):
            value += ":80"
        value = re.sub(r"^0\.0\.0\.0:", "*:", value)
        port = self.ports.setdefault(value, FIRST_PORT + len(self.ports))
        return [
            f"127.0.0.1:{port}",
            *(
                word
                for word in args[1:]
                if not word.startswith(("ipv6only=", "fastopen=", "setfib=", "bind", "accept_filter="))
                and word not in ("reuseport", "transparent")
            ),
        ]

    def target(self, text: str, upstream: bool = False) -> str:
        """The host of an upstream as an address, unless it is a group of the configuration or holds a variable."""
        match = re.match(r"([a-z]+://)?(\[[^\]]*\]|[^/:?#]*)(.*)", text, re.DOTALL)
        if not match or "$" in (match[1] or "") + match[2] or match[2] in ("unix", ""):
            return text
        if (not upstream and match[2].lower() in self.groups) or self.is_address(match[2]):
            return text
        return f"{match[1] or ''}127.0.0.1{match[3]}"


def test(binary: str, tree: Tree) -> Tested:
    """What the program says of the tree. Never raises: a program that cannot be asked is an answer without a verdict."""
    if not tree.whole:
        return Tested(None, "the configuration is not complete here")
    code = next((item for item in tree.root.walk() if _runs_code(item)), None)
    if code is not None:
        return Tested(None, f"{code.name} at {code.where} would run code of the configuration")
    with tempfile.TemporaryDirectory(prefix="nginx-test-") as directory:
        copy = _Copy(tree, directory)
        path = os.path.join(directory, "nginx.conf")
        text = copy.write()
        if len(copy.ports) > MAX_PORTS:
            return Tested(None, f"it listens on more than {MAX_PORTS} addresses")
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as target:
            target.write(text)
        try:
            done = subprocess.run(
                [binary, "-t", "-q", "-p", directory, "-c", path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT,
                check=False,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
                cwd=directory,
            )
        except subprocess.TimeoutExpired:
            return Tested(None, f"it did not answer within {TIMEOUT} s")
        except (OSError, ValueError) as error:
            return Tested(None, f"{binary} cannot be started: {getattr(error, 'strerror', None) or error}")
        if done.returncode == 0:
            return Tested(True)
        return _verdict(done.stdout[:20000].decode("utf-8", "replace"), copy, path)


def _runs_code(item: Directive) -> bool:
    """Whether nginx would run something that the configuration brings along, already when it tests it."""
    if item.name == "load_module":
        return not (
            item.args
            and re.fullmatch(r"(modules|/usr/(local/)?lib(64|exec)?/nginx/modules)/[A-Za-z0-9_.-]+\.so", item.args[0])
        )
    return item.name.startswith(("perl", "js_", "init_by_lua", "init_worker_by_lua")) or "_by_lua" in item.name


def _verdict(output: str, copy: _Copy, path: str) -> Tested:
    found = list(re.finditer(r"(?m)\[(emerg|crit|alert)\] (?:\d+#\d+: )?(.*)$", output))
    for match in sorted(found, key=lambda match: match[1] != "emerg"):
        message = match[2]
        if SURROUNDINGS.search(message):
            return Tested(None, clean(message.replace(copy.directory, "")))
        place = re.search(re.escape(path) + r":(\d+)", message)
        where = ""
        if place and 0 < int(place[1]) <= len(copy.origin):
            number = int(place[1]) - 1
            where = next((origin for origin in reversed(copy.origin[: number + 1]) if origin), "")
        message = re.sub(r" in " + re.escape(path) + r":\d+", "", message).replace(copy.directory, "")
        return Tested(False, clean(message), where)
    return Tested(None, clean(output) or "it failed without a word")


def version(binary: str) -> tuple[str | None, str | None]:
    """Version of the program and of the OpenSSL it runs with; None for what it does not say."""
    try:
        done = subprocess.run(
            [binary, "-V"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None, None
    text = done.stdout[:20000].decode("utf-8", "replace")
    own = re.search(r"nginx version: \S*?/([0-9]+\.[0-9]+\.[0-9]+)", text)
    running = re.search(r"running with OpenSSL ([0-9.]+)", text) or re.search(r"built with OpenSSL ([0-9.]+)", text)
    return own[1] if own else None, running[1] if running else None
