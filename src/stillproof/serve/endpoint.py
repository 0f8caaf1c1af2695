"""A Teacher behind an OpenAI-compatible HTTP endpoint. For trying things and for tests: the standard library's
server, no TLS, no authentication, no streaming. A production gateway is another part of stillproof.

Requests that arrive within a few milliseconds of one another are answered in one batch, so that local weights are
served at batch speed. A request's bearer key, hashed, is its account.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from stillproof.errors import BudgetError, InputError, StillproofError, TeacherError
from stillproof.exchange import Exchange
from stillproof.serve.wire import Call, Refusal, completion, error_body, read_call

if TYPE_CHECKING:
    from email.message import Message as EmailMessage

    from stillproof.teacher import Request, Teacher

_log = logging.getLogger(__name__)


def endpoint(
    teacher: Teacher,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    batch_size: int = 64,
    window_s: float = 0.01,
    max_body_bytes: int = 1 << 20,
    answer_timeout_s: float = 600.0,
) -> Endpoint:
    """Serve a teacher at `.url` (http://host:port/v1) until `.close()`; port 0 takes a free one.

    POST /v1/chat/completions, GET /v1/models, GET /health. A batch is at most `batch_size` requests that arrived
    within `window_s`. The teacher stays the caller's: it is not closed. Raises OSError where the port is taken.
    """
    return Endpoint(
        teacher,
        (host, port),
        _Limits(batch_size, window_s, max_body_bytes, answer_timeout_s),
    )


@dataclass(frozen=True, slots=True)
class _Limits:
    batch_size: int
    window_s: float
    max_body_bytes: int
    answer_timeout_s: float


@dataclass(frozen=True, slots=True)
class _Job:
    request: Request
    answer: Future[Exchange]


def account_of_key(key: str) -> str:
    """The account name of a bearer key: a hash, so that no key is ever stored or logged."""
    return "key:" + sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]


class Endpoint:
    """A running server; see `endpoint`. A context manager."""

    def __init__(self, teacher: Teacher, address: tuple[str, int], limits: _Limits) -> None:
        self._teacher = teacher
        self._limits = limits
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._n_calls = 0
        self._closed = False
        self._lock = threading.Lock()
        self._server = _Server(address, _handler(self))
        self._threads = [
            threading.Thread(target=self._server.serve_forever, args=(0.05,), name="stillproof-http", daemon=True),
            threading.Thread(target=self._batches, name="stillproof-batches", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host}:{port}/v1"

    def close(self) -> None:
        """Stop listening; calls that wait are refused with 503, the batch under way is answered."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- one call ---------------------------------------------------------------------------------------------

    def handle(self, method: str, path: str, body: bytes, account: str | None) -> tuple[int, dict[str, Any]]:
        """Status and JSON of one call."""
        model = self._teacher.identity.model
        path = path.partition("?")[0].rstrip("/")
        if method == "GET" and path == "/health":
            return 200, {"status": "ok"}
        if method == "GET" and path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": model, "object": "model", "owned_by": "stillproof"}]}
        if path != "/v1/chat/completions":
            return 404, error_body("no such path", "not_found")
        if method != "POST":
            return 405, error_body("use POST", "method_not_allowed")
        try:
            return 200, self._completion(read_call(body, model=model, account=account), model)
        except Refusal as refusal:
            return refusal.status, refusal.body

    def _completion(self, call: Call, model: str) -> dict[str, Any]:
        exchanges = self._answers(call)
        bad = next((exchange for exchange in exchanges if exchange.status not in (None, 200)), None)
        if bad is not None:
            raise Refusal(bad.status or 500, "the teacher refused this request", "teacher_refused")
        return completion(call, exchanges, model)

    def _answers(self, call: Call) -> list[Exchange]:
        jobs = [_Job(request, Future()) for request in call.requests(self._next_sample())]
        with self._lock:
            # Under the lock, so that no job can follow the None that ends the batches.
            if self._closed:
                raise Refusal(503, "the server is closing", "closing")
            for job in jobs:
                self._jobs.put(job)
        deadline = time.monotonic() + self._limits.answer_timeout_s
        try:
            return [job.answer.result(max(deadline - time.monotonic(), 0.0)) for job in jobs]
        except TimeoutError as error:
            raise Refusal(504, "no answer in time", "timeout") from error
        except StillproofError as error:
            raise Refusal(_status_of(error), error.what, type(error).__name__) from error
        except Exception as error:
            _log.exception("the teacher failed")
            raise Refusal(500, "the teacher failed", "internal_error") from error

    def _next_sample(self) -> int:
        """Counts calls, so that equal calls without a seed are different samples."""
        with self._lock:
            self._n_calls += 1
            return self._n_calls - 1

    # --- batches ----------------------------------------------------------------------------------------------

    def _batches(self) -> None:
        while (first := self._jobs.get()) is not None:
            batch, closing = self._collect(first)
            self._answer(batch)
            if closing:
                break
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None:
                job.answer.set_exception(TeacherError("the server is closing"))

    def _collect(self, first: _Job) -> tuple[list[_Job], bool]:
        batch, deadline = [first], time.monotonic() + self._limits.window_s
        while len(batch) < self._limits.batch_size:
            try:
                job = self._jobs.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                break
            if job is None:
                return batch, True
            batch.append(job)
        return batch, False

    def _answer(self, batch: list[_Job]) -> None:
        """Answer a batch; where it fails, its unanswered jobs are tried one by one, so that one call's fault is
        only its own."""
        waiting = {job.request.id: job for job in batch}
        fault: Exception = TeacherError("the teacher gave no answer")
        try:
            for exchange in self._teacher.answer([job.request for job in batch]):
                job = waiting.pop(exchange.id, None)
                if job is not None:
                    job.answer.set_result(exchange)
        except Exception as error:
            # Whatever a teacher raises belongs to its calls: the server goes on for the others.
            fault = error
        for job in waiting.values():
            if len(batch) == 1:
                job.answer.set_exception(fault)
            else:
                self._answer([job])


def _status_of(error: StillproofError) -> int:
    if isinstance(error, BudgetError):
        return 429
    if isinstance(error, InputError):
        return 400
    return 503 if isinstance(error, TeacherError) else 500


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def _handler(server: Endpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60.0

        def do_GET(self) -> None:
            self._send(*server.handle("GET", self.path, b"", None))

        def do_POST(self) -> None:
            length = self.headers.get("content-length", "")
            if not length.isdecimal():
                self._refuse(411, "a Content-Length is needed")
            elif int(length) > server._limits.max_body_bytes:
                self._refuse(413, f"the body is larger than {server._limits.max_body_bytes} bytes")
            else:
                body = self.rfile.read(int(length))
                self._send(*server.handle("POST", self.path, body, _account(self.headers)))

        def _refuse(self, status: int, what: str) -> None:
            # The body was not read, so what follows on this connection could not be understood.
            self.close_connection = True
            self._send(status, error_body(what, "invalid_request"))

        def _send(self, status: int, body: dict[str, Any]) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            _log.debug("%s " + format, self.address_string(), *args)

    return Handler


def _account(headers: EmailMessage) -> str | None:
    scheme, _, key = (headers.get("authorization") or "").partition(" ")
    return account_of_key(key.strip()) if scheme.lower() == "bearer" and key.strip() else None
