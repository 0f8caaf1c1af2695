"""A tiny HTTP server in OpenAI shape on 127.0.0.1, for clients whose telemetry is the fixture."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CREATED = 1_790_000_000


class Handler(BaseHTTPRequestHandler):
    calls = 0

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Handler.calls += 1
        if request["model"] == "refused":
            self._send(429, {"error": {"message": "slow down", "type": "rate_limit", "code": "rate_limit"}})
        elif self.path.endswith("/responses"):
            self._send(200, response(request, Handler.calls))
        else:
            self._send(200, completion(request, Handler.calls))

    def _send(self, status: int, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def completion(request: dict, call: int) -> dict:
    choices = [
        {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": f"answer {i}"}}
        for i in range(request.get("n") or 1)
    ]
    usage = {"prompt_tokens": 21, "completion_tokens": 5 * len(choices), "total_tokens": 21 + 5 * len(choices)}
    usage["completion_tokens_details"] = {"reasoning_tokens": 3}
    return {
        "id": f"chatcmpl-{call:04d}",
        "object": "chat.completion",
        "created": CREATED + call,
        "model": request["model"],
        "choices": choices,
        "usage": usage,
    }


def response(request: dict, call: int) -> dict:
    text = {"type": "output_text", "text": "answer", "annotations": []}
    return {
        "id": f"resp_{call:04d}",
        "object": "response",
        "created_at": CREATED + call,
        "model": request["model"],
        "status": "completed",
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": request.get("tools", []),
        "output": [
            {"type": "reasoning", "id": f"rs_{call:04d}", "summary": [], "encrypted_content": f"sealed-{call:04d}"},
            {"type": "message", "id": f"msg_{call:04d}", "role": "assistant", "status": "completed", "content": [text]},
        ],
        "usage": {
            "input_tokens": 30,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 12,
            "output_tokens_details": {"reasoning_tokens": 8},
            "total_tokens": 42,
        },
    }


def start() -> str:
    """The base URL of a server that runs until the process ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}/v1"
