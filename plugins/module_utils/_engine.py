# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A minimal Docker Engine API client over the unix socket. PRIVATE, may change at any time.

Standard library only: it runs on targets that have nothing but Python and an engine. It speaks to engines from
20.10 (API 1.41) up to 29 (which no longer accepts anything below API 1.44) by agreeing on a version first.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import time
import urllib.parse
from dataclasses import dataclass

#: The newest API this client was written for; an older engine is spoken to in its own version.
API_NEWEST = (1, 47)
#: Docker 20.10.
API_OLDEST = (1, 41)

#: Every throwaway container carries this label, so that one left behind by a crash can be told apart.
THROWAWAY_LABEL = "mcpstack.throwaway"

_CHUNK = 1 << 16


class EngineError(Exception):
    """The engine answered with an error, or broke off in the middle of an answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class EngineUnavailable(EngineError):
    """There is no engine behind the socket, or it does not answer."""


@dataclass(frozen=True)
class ExecResult:
    """What a command in a container left: exit status and both streams, separately."""

    rc: int
    stdout: bytes
    stderr: bytes


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, socket_path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._socket_path = socket_path

    def connect(self) -> None:
        self.sock = _connect(self._socket_path, self.timeout)


def _connect(socket_path: str, timeout: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(socket_path)
    except OSError as exc:
        sock.close()
        if isinstance(exc, PermissionError):
            message = f"{socket_path}: no permission to talk to the Docker engine; run as root (become: true)."
        elif isinstance(exc, FileNotFoundError):
            message = f"{socket_path}: no Docker engine listens here; install and start docker."
        else:
            message = f"{socket_path}: the Docker engine does not answer ({exc}); is the docker service running?"
        raise EngineUnavailable(message) from exc
    return sock


def _query(params: dict | None) -> str:
    """Build the query string; lists and dicts travel as JSON, booleans as 1 and 0, None not at all."""
    if not params:
        return ""
    flat = {}
    for key, value in params.items():
        if value is None:
            continue
        if isinstance(value, bool):
            value = int(value)
        flat[key] = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    return "?" + urllib.parse.urlencode(flat)


def _message_of(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace").strip()[:500] or "no reason given"


def json_lines(body: bytes) -> list[dict]:
    """Read the progress messages of load and pull; an error among them counts although the status was 200."""
    messages = []
    for line in body.splitlines():
        if not line.strip():
            continue
        try:
            message = json.loads(line)
        except ValueError as exc:
            raise EngineError(f"The Docker engine broke off in the middle of an answer: {line[:200]!r}.") from exc
        if "error" in message:
            raise EngineError(f"The Docker engine reported: {message['error']}")
        messages.append(message)
    return messages


def demultiplex(data: bytes) -> tuple[bytes, bytes]:
    """Split the engine's multiplexed stream (8-byte frame headers) into stdout and stderr."""
    out, err = bytearray(), bytearray()
    position = 0
    while position < len(data):
        header = data[position : position + 8]
        if len(header) < 8 or header[0] > 2 or header[1:4] != b"\0\0\0":
            raise EngineError("The Docker engine broke off in the middle of an output stream.")
        size = int.from_bytes(header[4:], "big")
        frame = data[position + 8 : position + 8 + size]
        if len(frame) < size:
            raise EngineError("The Docker engine broke off in the middle of an output stream.")
        (err if header[0] == 2 else out).extend(frame)
        position += 8 + size
    return bytes(out), bytes(err)


class Engine:
    """One engine. Every call opens its own connection: nothing to close, nothing to go stale."""

    def __init__(self, socket_path: str = "/var/run/docker.sock", timeout: float = 60) -> None:
        self.socket_path = socket_path
        self.timeout = timeout
        self._api: str | None = None

    # -- transport ------------------------------------------------------------------------------------------------

    def _request(self, method, path, body=None, headers=None, timeout=None):
        """Send one request and read the whole answer; returns (status, headers, body)."""
        timeout = timeout or self.timeout
        connection = _UnixConnection(self.socket_path, timeout)
        try:
            try:
                connection.request(method, path, body=body, headers=headers or {})
            except (BrokenPipeError, ConnectionResetError):
                if connection.sock is None:
                    raise
                # the engine refused before it read everything: its reason may be waiting for us
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        except TimeoutError as exc:
            raise EngineUnavailable(
                f"{self.socket_path}: the Docker engine did not answer {method} {path} within {timeout:g} s."
            ) from exc
        except (http.client.HTTPException, OSError) as exc:
            raise EngineError(
                f"{self.socket_path}: the Docker engine broke off while answering {method} {path} ({exc!r})."
            ) from exc
        finally:
            connection.close()

    def _versioned(self, path: str, params: dict | None = None) -> str:
        if self._api is None:
            status, headers, body = self._request("GET", "/_ping")
            if status != 200:
                raise EngineUnavailable(f"{self.socket_path}: the Docker engine is not ready: {_message_of(body)}")
            try:
                offered = tuple(int(part) for part in (headers.get("Api-Version") or "").split("."))
            except ValueError:
                offered = ()
            if len(offered) != 2:
                raise EngineUnavailable(f"{self.socket_path}: what listens here is not a Docker engine.")
            if offered < API_OLDEST:
                raise EngineError(
                    f"{self.socket_path}: the Docker engine speaks API {offered[0]}.{offered[1]}; "
                    f"{API_OLDEST[0]}.{API_OLDEST[1]} (Docker 20.10) or newer is needed."
                )
            chosen = min(offered, API_NEWEST)
            self._api = f"/v{chosen[0]}.{chosen[1]}"
        return self._api + path + _query(params)

    def _call(self, method, path, params=None, body=None, raw=None, headers=None, timeout=None):
        headers = dict(headers or {})
        if body is not None:
            raw = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        status, answer_headers, data = self._request(
            method, self._versioned(path, params), body=raw, headers=headers, timeout=timeout
        )
        if status >= 400:
            raise EngineError(f"The Docker engine refused {method} {path}: {_message_of(data)}", status)
        if answer_headers.get_content_type() == "application/json":
            try:
                return json.loads(data) if data.strip() else {}
            except ValueError:
                return data  # several JSON documents: progress messages, see json_lines()
        return data

    def get(self, path, params=None, timeout=None):
        """GET: parsed JSON, or bytes where the engine sends something else."""
        return self._call("GET", path, params, timeout=timeout)

    def post(self, path, params=None, body=None, raw=None, headers=None, timeout=None):
        """POST a JSON body, or raw bytes or a file object."""
        return self._call("POST", path, params, body=body, raw=raw, headers=headers, timeout=timeout)

    def delete(self, path, params=None):
        """DELETE."""
        return self._call("DELETE", path, params)

    def _hijack(self, path: str, params: dict | None = None, body: dict | None = None) -> tuple[socket.socket, bytes]:
        """POST and take the connection over as a raw two-way stream; returns it with what already arrived."""
        target = self._versioned(path, params)
        payload = json.dumps(body).encode() if body is not None else b""
        head = (
            f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(payload)}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        )
        sock = _connect(self.socket_path, self.timeout)
        try:
            sock.sendall(head.encode() + payload)
            received = b""
            while b"\r\n\r\n" not in received:
                chunk = sock.recv(_CHUNK)
                if not chunk:
                    raise EngineError(f"{self.socket_path}: the Docker engine broke off while answering POST {path}.")
                received += chunk
            header, rest = received.split(b"\r\n\r\n", 1)
            status = int(header.split(b" ", 2)[1])
            if status not in (101, 200):
                while True:  # an error body: the engine closes or the length says when it is complete
                    try:
                        json.loads(rest)
                        break
                    except ValueError:
                        chunk = sock.recv(_CHUNK)
                        if not chunk:
                            break
                        rest += chunk
                raise EngineError(f"The Docker engine refused POST {path}: {_message_of(rest)}", status)
            return sock, rest
        except (OSError, IndexError, ValueError) as exc:
            sock.close()
            raise EngineError(
                f"{self.socket_path}: the Docker engine broke off while answering POST {path} ({exc!r})."
            ) from exc
        except EngineError:
            sock.close()
            raise

    @staticmethod
    def _pump(sock: socket.socket, received: bytes, stdin: bytes | None, deadline: float, what: str) -> bytes:
        """Feed stdin and collect output at the same time until the other side closes."""
        output = bytearray(received)
        pending = memoryview(stdin or b"")
        sock.setblocking(False)
        half_closed = False
        while True:
            if not pending and stdin is not None and not half_closed:
                sock.shutdown(socket.SHUT_WR)
                half_closed = True
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise EngineError(f"{what} did not finish in time.")
            readable, writable, _unused = select.select([sock], [sock] if pending else [], [], remaining)
            if writable:
                try:
                    pending = pending[sock.send(pending[:_CHUNK]) :]
                except BlockingIOError:
                    pass
                except (BrokenPipeError, ConnectionResetError):
                    pending = memoryview(b"")  # the command ended without reading all of its input
                    half_closed = True
            if readable:
                try:
                    chunk = sock.recv(_CHUNK)
                except BlockingIOError:
                    continue
                except ConnectionResetError:
                    chunk = b""
                if not chunk:
                    return bytes(output)
                output += chunk

    # -- engine ---------------------------------------------------------------------------------------------------

    def version(self) -> dict:
        """What `docker version` says of the server."""
        return self.get("/version")

    def info(self) -> dict:
        """What `docker info` says."""
        return self.get("/info")

    # -- images ---------------------------------------------------------------------------------------------------

    def image(self, ref: str) -> dict | None:
        """Inspect an image; None when the engine has none of that name or id."""
        try:
            return self.get(f"/images/{urllib.parse.quote(ref, safe='/:@')}/json")
        except EngineError as exc:
            if exc.status == 404:
                return None
            raise

    def load_image(self, path: str, timeout: float = 900) -> list[str]:
        """Load an archive as `docker load` does, streaming; returns the references it brought."""
        with open(path, "rb") as archive:
            headers = {"Content-Type": "application/x-tar", "Content-Length": str(os.fstat(archive.fileno()).st_size)}
            answer = self.post("/images/load", {"quiet": True}, raw=archive, headers=headers, timeout=timeout)
        loaded = []
        for message in self._messages(answer):
            text = message.get("stream", "")
            for prefix in ("Loaded image ID: ", "Loaded image: "):
                if text.startswith(prefix):
                    loaded.append(text[len(prefix) :].strip())
        return loaded

    def pull_image(self, ref: str, timeout: float = 1800) -> None:
        """Pull a reference from its registry (anonymous)."""
        self._messages(self.post("/images/create", {"fromImage": ref}, timeout=timeout))

    @staticmethod
    def _messages(answer) -> list[dict]:
        return json_lines(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    # -- containers -----------------------------------------------------------------------------------------------

    def find_service_container(self, project: str, service: str) -> dict | None:
        """Inspect the newest running container of a compose service; None when there is none."""
        labels = [f"com.docker.compose.project={project}", f"com.docker.compose.service={service}"]
        found = self.get("/containers/json", {"filters": {"label": labels, "status": ["running"]}})
        for summary in sorted(found, key=lambda item: item["Created"], reverse=True):
            try:
                return self.get(f"/containers/{summary['Id']}/json")
            except EngineError as exc:
                if exc.status != 404:  # it went away between the two questions
                    raise
        return None

    def exec(self, container_id, argv, stdin=None, user=None, env=None, timeout=60) -> ExecResult:
        """Run a command in a running container and wait for it."""
        body = {
            "Cmd": list(argv),
            "AttachStdin": stdin is not None,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": False,
            "Env": [f"{key}={value}" for key, value in (env or {}).items()],
        }
        if user is not None:
            body["User"] = str(user)
        exec_id = self.post(f"/containers/{container_id}/exec", body=body)["Id"]
        deadline = time.monotonic() + timeout
        sock, received = self._hijack(f"/exec/{exec_id}/start", body={"Detach": False, "Tty": False})
        try:
            data = self._pump(sock, received, stdin, deadline, f"{argv[0]} in container {container_id[:12]}")
        finally:
            sock.close()
        out, err = demultiplex(data)
        while True:
            state = self.get(f"/exec/{exec_id}/json")
            if not state["Running"] and state["ExitCode"] is not None:
                return ExecResult(state["ExitCode"], out, err)
            if time.monotonic() >= deadline:
                raise EngineError(f"{argv[0]} in container {container_id[:12]} did not finish in time.")
            time.sleep(0.02)  # both streams are closed, the exit status follows at once

    def run(
        self,
        image,
        command,
        *,
        entrypoint=None,
        user=None,
        mounts=(),
        network="none",
        tmpfs=None,
        env=None,
        read_only=True,
        timeout=60,
        stdin=None,
        labels=None,
        memory=1 << 30,
        pids=256,
        shm_size=64 << 20,
    ) -> ExecResult:
        """Run a command in a throwaway hardened container that is always removed.

        mounts: dicts of source (path, or name of a volume), target and read_only (default true).
        tmpfs: {target: "size=16m,uid=64104,mode=0700"}; noexec, nosuid and nodev are always added.
        """
        config = {
            "Image": image,
            "Cmd": list(command) if command is not None else None,
            "Env": [f"{key}={value}" for key, value in (env or {}).items()],
            "Labels": {THROWAWAY_LABEL: "true", **(labels or {})},
            "AttachStdin": stdin is not None,
            "OpenStdin": stdin is not None,
            "StdinOnce": stdin is not None,
            "AttachStdout": True,
            "AttachStderr": True,
            "NetworkDisabled": False,
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": {
                "AutoRemove": True,  # the engine cleans up even if this process is killed
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "ReadonlyRootfs": bool(read_only),
                "NetworkMode": network,
                "PidsLimit": pids,
                "Memory": memory,
                "ShmSize": shm_size,
                "LogConfig": {"Type": "none"},  # what it prints is ours alone, not kept on disk
                "Tmpfs": {
                    target: ",".join(filter(None, ["rw,noexec,nosuid,nodev", options]))
                    for target, options in (tmpfs or {}).items()
                },
                "Mounts": [
                    {
                        "Type": "bind" if str(mount["source"]).startswith("/") else "volume",
                        "Source": str(mount["source"]),
                        "Target": mount["target"],
                        "ReadOnly": bool(mount.get("read_only", True)),
                    }
                    for mount in mounts
                ],
            },
        }
        if entrypoint is not None:
            config["Entrypoint"] = list(entrypoint) if not isinstance(entrypoint, str) else [entrypoint]
        if user is not None:
            config["User"] = str(user)
        deadline = time.monotonic() + timeout
        container = self.post("/containers/create", body=config)["Id"]
        waiter = None
        try:
            attach = {"stream": True, "stdout": True, "stderr": True, "stdin": stdin is not None}
            sock, received = self._hijack(f"/containers/{container}/attach", attach)
            try:
                waiter = self._wait_for_exit(container, timeout + self.timeout)
                self.post(f"/containers/{container}/start")
                data = self._pump(sock, received, stdin, deadline, f"A throwaway container of {image}")
            finally:
                sock.close()
            out, err = demultiplex(data)
            try:
                state = json.loads(waiter.read())
            except (ValueError, OSError, http.client.HTTPException) as exc:
                raise EngineError(f"The Docker engine lost the exit status of a container of {image}.") from exc
            if (state.get("Error") or {}).get("Message"):
                raise EngineError(f"A throwaway container of {image} failed: {state['Error']['Message']}")
            return ExecResult(state["StatusCode"], out, err)
        finally:
            if waiter is not None:
                waiter.connection.close()
            self._remove(container)

    def _wait_for_exit(self, container: str, timeout: float):
        """Ask for the exit status before the start, so that even a command that ends at once is not missed."""
        connection = _UnixConnection(self.socket_path, timeout)
        try:
            connection.request("POST", self._versioned(f"/containers/{container}/wait", {"condition": "next-exit"}))
            response = connection.getresponse()
        except (http.client.HTTPException, OSError) as exc:
            connection.close()
            raise EngineError(f"{self.socket_path}: the Docker engine broke off while waiting ({exc!r}).") from exc
        if response.status != 200:
            message = _message_of(response.read())
            connection.close()
            raise EngineError(f"The Docker engine refused to wait for a container: {message}", response.status)
        response.connection = connection
        return response

    def _remove(self, container: str) -> None:
        try:
            self.delete(f"/containers/{container}", {"force": True, "v": True})
        except EngineError as exc:
            if exc.status not in (404, 409):  # gone, or the engine is removing it already
                raise
