# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A model server with every endpoint that one may have, in this process or as one of its own.

python modelserver.py PORT NAME MODEL... answers until it is stopped. The last message can ask it to misbehave: what
support.Runner knows, and #big, #flood, #hold, #redirect, #text, #broken, #error, #inner for the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from support import MODEL_KEY, Runner, free_port, wait_for

Event = tuple[str, Any]  # name (empty: none), data
_BIG = b'{"pad":"' + b"x" * (33 * 1024 * 1024) + b'"}'


@dataclass
class ModelServer(Runner):
    name: str = "one"
    lacks: set[str] = field(default_factory=set)
    healthy: bool = True
    listed: str = ""  # instead of its list of models
    running: int = 0
    most: int = 0  # requests at once, ever
    held: asyncio.Event = field(default_factory=asyncio.Event)  # what #hold waits for

    def application(self) -> web.Application:
        app = web.Application(client_max_size=1 << 28)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        for path, answer in (
            ("/v1/chat/completions", self._chat_answer),
            ("/v1/completions", self._completion),
            ("/v1/embeddings", self._embedding),
            ("/v1/responses", self._response),
            ("/v1/messages", self._message),
            ("/v1/messages/count_tokens", self._tokens),
        ):
            app.router.add_post(path, self._counted(path, answer))
        return app

    def start(self) -> None:
        self.port = self.port or free_port()

        async def go() -> None:
            self._runner = web.AppRunner(
                self.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
            )
            await self._runner.setup()
            await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

        self.loop.run(go())

    def let_go(self) -> None:
        """Whoever said #hold gets an answer now."""
        self.loop.loop.call_soon_threadsafe(self.held.set)

    def _counted(self, path: str, answer: Any) -> Any:
        async def handler(request: web.Request) -> web.StreamResponse:
            body = json.loads(await request.read())
            if path in self.lacks:
                return web.json_response(
                    {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}, status=404
                )
            if not body:
                return web.json_response({"error": {"message": "'model' is required"}}, status=400)
            self.seen.append((path, dict(request.headers), body))
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                word = _word(body)
                return self._refuse(request) or await self._misbehave(request, word) or await answer(request, body)
            except (asyncio.CancelledError, ConnectionError):
                self.broken_off += 1
                raise
            finally:
                self.running -= 1

        return handler

    async def _health(self, request: web.Request) -> web.Response:
        return await super()._health(request) if self.healthy else web.json_response({}, status=500)

    async def _models(self, request: web.Request) -> web.Response:
        if self.listed:
            return web.Response(text=self.listed, content_type="application/json")
        return await super()._models(request)

    async def _misbehave(self, request: web.Request, word: str) -> web.StreamResponse | None:
        if word.startswith("#status "):
            _, status, message = word.split(" ", 2)
            return web.json_response({"error": {"message": message, "type": "x"}}, status=int(status))
        if word == "#drop":
            assert request.transport is not None
            request.transport.abort()
        if word == "#garbage":
            return web.Response(text="<html>oops</html>", content_type="text/html")
        if word == "#text":
            return web.Response(text="data: {}\n\n", content_type="text/plain")
        if word == "#broken":
            return web.Response(text='{"id": "c1", "object": ', content_type="application/json")
        if word == "#redirect":
            return web.Response(status=307, headers={"Location": "http://10.1.2.3/v1/chat/completions"})
        if word == "#big":
            return web.Response(body=_BIG, content_type="application/json")
        if word == "#hold":
            await self.held.wait()
        if word == "#flood":
            return await self._play(request, word, [("", {"choices": [{"delta": {"content": "x" * 65536}}]})] * 2000)
        if word.startswith("#wait "):
            await asyncio.sleep(float(word.split()[1]))
        return None

    async def _play(self, request: web.Request, word: str, events: Sequence[Event]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        self.streaming += 1
        try:
            for number, (name, data) in enumerate(events):
                await response.write(_written(name, data))
                await asyncio.sleep(0.05 if word in ("#slow", "#steady") else 0.001)
                if number != 2:
                    continue
                if word == "#die":
                    await response.write(_written(*events[3])[:20])  # half an event
                    await asyncio.sleep(0.05)
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                if word == "#end":
                    break
                if word == "#hang":
                    await asyncio.sleep(60)
                if word == "#error":
                    error = {"message": "no slot at http://10.1.2.3:8080/x", "type": "server_error", "code": 500}
                    await response.write(_written("error" if name else "", {"error": error}))
                    await response.write(b"data: [DONE]\n\n")
                    break
            await response.write_eof()
        finally:
            self.streaming -= 1
        return response

    # Answers

    async def _chat_answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        word = _word(body)
        message: dict[str, Any] = {"role": "assistant", "content": "hello there"}
        finish = "stop"
        if body.get("tools"):
            function = {"name": body["tools"][0]["function"]["name"], "arguments": '{"city": "Oslo"}'}
            message = {"role": "assistant", "content": None}
            message["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
            finish = "tool_calls"
        elif (body.get("response_format") or {}).get("type", "text") != "text":
            message["content"] = '{"answer": 42}'
        elif word == "#inner":
            message["content"] = 'data: [DONE]\n\n{"error": {}, "usage": {"completion_tokens": 9}}'
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "message": message}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": "hello", "logprob": -0.5, "bytes": None, "top_logprobs": []}]}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        head = {"id": "c1", "created": 1, "model": body["model"], "system_fingerprint": self.name}
        if not body.get("stream"):
            return web.json_response(head | {"object": "chat.completion", "choices": [choice], "usage": usage})
        head["object"] = "chat.completion.chunk"
        texts = (
            [message["content"]]
            if word == "#inner"
            else [f"w{number} " for number in range({"#slow": 200, "#steady": 60}.get(word, 8))]
        )
        deltas: list[dict[str, Any]] = [{"content": text} for text in texts]
        if "tool_calls" in message:
            call = message["tool_calls"][0]
            deltas = [
                {"tool_calls": [{"index": 0, **call, "function": {"name": call["function"]["name"], "arguments": ""}}]}
            ]
            deltas += [
                {"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in ('{"city"', ': "Oslo"}')
            ]
        events: list[Event] = [
            ("", head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}) for delta in deltas
        ]
        if word == "#inner":
            return await self._play(request, "", events)  # and no end
        events.append(("", head | {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}))
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}
            events.append(("", head | {"choices": [], "usage": usage}))
        return await self._play(request, word, [*events, ("", "[DONE]")])

    async def _completion(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        usage = {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}
        head = {"id": "t1", "object": "text_completion", "created": 1, "model": body["model"]}
        choice = {"index": 0, "text": "once upon", "finish_reason": "stop", "logprobs": None}
        if not body.get("stream"):
            return web.json_response(head | {"choices": [choice], "usage": usage})
        events: list[Event] = [("", head | {"choices": [choice | {"text": f"w{n} "}]}) for n in range(4)]
        if (body.get("stream_options") or {}).get("include_usage"):
            events.append(("", head | {"choices": [], "usage": usage}))
        return await self._play(request, _word(body), [*events, ("", "[DONE]")])

    async def _embedding(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
        usage = {"prompt_tokens": 2, "total_tokens": 2}
        return web.json_response({"object": "list", "model": body["model"], "data": data, "usage": usage})

    async def _response(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        part = {"type": "output_text", "text": "hello there", "annotations": []}
        item = {"type": "message", "id": "m1", "status": "completed", "role": "assistant", "content": [part]}
        usage = {
            "input_tokens": 3, "output_tokens": 8, "total_tokens": 11,
            "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0},
        }  # fmt: skip
        answer = {
            "id": "resp_1", "object": "response", "created_at": 1, "model": body["model"], "status": "completed",
            "output": [item], "parallel_tool_calls": True, "tool_choice": "auto", "tools": body.get("tools") or [],
            "usage": usage, "error": None,
        }  # fmt: skip
        if not body.get("stream"):
            return web.json_response(answer)
        begun = answer | {"status": "in_progress", "output": [], "usage": None}
        events: list[Event] = [("response.created", {"response": begun}), ("response.in_progress", {"response": begun})]
        events += [
            ("response.output_text.delta", {"item_id": "m1", "output_index": 0, "content_index": 0, "delta": f"w{n} "})
            for n in range(8)
        ]
        events.append(("response.completed", {"response": answer}))
        numbered = [(name, {"type": name, "sequence_number": n, **data}) for n, (name, data) in enumerate(events)]
        return await self._play(request, _word(body), numbered)

    async def _message(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        answer = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "stop_sequence": None,
            "content": [{"type": "text", "text": "hello there"}], "stop_reason": "end_turn",
            "usage": {"input_tokens": 3, "output_tokens": 8, "cache_read_input_tokens": 4},
        }  # fmt: skip
        if not body.get("stream"):
            return web.json_response(answer)
        begun = answer | {"content": [], "stop_reason": None, "usage": {"input_tokens": 3, "output_tokens": 0}}
        piece = {"type": "text_delta"}
        events: list[Event] = [
            ("message_start", {"message": begun}),
            ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
            *(("content_block_delta", {"index": 0, "delta": piece | {"text": f"w{n} "}}) for n in range(8)),
            ("content_block_stop", {"index": 0}),
            ("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 8}}),
            ("message_stop", {}),
        ]  # fmt: skip
        return await self._play(request, _word(body), [(name, {"type": name, **data}) for name, data in events])

    async def _tokens(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"input_tokens": 7})


def _word(body: dict[str, Any]) -> str:
    """The last thing that was said."""
    said = body.get("messages") or body.get("input") or body.get("prompt") or body.get("system") or ""
    if isinstance(said, list):
        said = said[-1]
    if isinstance(said, dict):
        said = said.get("content")
    if isinstance(said, list):
        said = next((part.get("text") for part in said if isinstance(part, dict) and "text" in part), "")
    return said if isinstance(said, str) else ""


def _written(name: str, data: Any) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


@contextlib.contextmanager
def process(name: str, *models: str, port: int = 0) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """One that can be stopped, frozen and killed like any process."""
    port = port or free_port()
    running = subprocess.Popen([sys.executable, __file__, str(port), name, *models], cwd=Path(__file__).parent)
    try:
        wait_for("the model server", lambda: _listens(port))
        yield port, running
    finally:
        running.send_signal(signal.SIGCONT)
        running.kill()
        running.wait(10)


def _listens(port: int) -> bool:
    import socket

    socket.create_connection(("127.0.0.1", port), 1).close()
    return True


def main(port: int, name: str, models: list[str]) -> None:
    async def serve() -> None:
        server = ModelServer(loop=None, port=port, models=models, name=name)  # type: ignore[arg-type] # never starts itself
        runner = web.AppRunner(server.application(), access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()

    assert MODEL_KEY
    asyncio.run(serve())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent / "src"))
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
