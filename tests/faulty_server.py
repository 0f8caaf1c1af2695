"""A small OpenAI-compatible server that misbehaves by plan, on 127.0.0.1 and a free port. Standard library only.

with FaultyServer([Fault(status=500), Fault()]) as server:   # one fault a call, in order; then `Fault()` for ever
    server.url, server.calls, server.calls_by_body
"""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Fault:
    """What one call meets. The default is a good answer."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_body: bool = False
    """Announce the whole length, send half, close."""
    half_json: bool = False
    """A whole HTTP answer whose JSON breaks off."""
    raw: str | None = None
    """A body of one's own."""
    delay_s: float = 0.0
    hang_up: bool = False
    """Close the connection without any answer."""
    die: bool = False
    """From this call on, the server is gone: hang up, and listen no more."""


class FaultyServer:
    def __init__(
        self,
        faults: Iterable[Fault] = (),
        *,
        reply: Callable[[dict], str] = lambda body: "answer to " + body["messages"][-1]["content"],
        completion_id: str | None = None,
        port: int = 0,
    ) -> None:
        self._faults = iter(faults)
        self._reply = reply
        self._completion_id = completion_id
        self._lock = threading.Lock()
        self._dead = False
        self.calls = 0
        self.calls_by_body: Counter[str] = Counter()
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> "FaultyServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _next(self, body: dict, key: str | None) -> tuple[int, Fault]:
        with self._lock:
            self.calls += 1
            self.calls_by_body[json.dumps(body, sort_keys=True)] += 1
            self.bodies.append(body)
            self.keys.append(key)
            return self.calls, next(self._faults, Fault())

    def _completion(self, number: int, body: dict) -> dict:
        content = self._reply(body)
        return {
            "id": self._completion_id or f"chatcmpl-{number}",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if outer._dead:
                    self._hang_up()
                    return
                number, fault = outer._next(body, self.headers.get("authorization"))
                time.sleep(fault.delay_s)
                if fault.die:
                    # Connections that are open already die with it.
                    outer._dead = True
                    threading.Thread(target=outer._server.shutdown, daemon=True).start()
                    outer._server.socket.close()
                if fault.die or fault.hang_up:
                    self._hang_up()
                    return
                good = fault.status == 200
                answer = outer._completion(number, body) if good else {"error": {"message": f"fault {fault.status}"}}
                text = json.dumps(answer).encode() if fault.raw is None else fault.raw.encode()
                if fault.half_json:
                    text = text[: len(text) // 2]
                self.send_response(fault.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                for name, value in fault.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text[: len(text) // 2] if fault.cut_body else text)
                if fault.cut_body:
                    self._hang_up()

            def _hang_up(self) -> None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler
