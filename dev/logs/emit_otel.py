"""Writes the OpenTelemetry fixtures: what real instrumentations of the real `openai` client export.

    python3.11 -m venv /tmp/otel && /tmp/otel/bin/pip install openai==3.54.0 opentelemetry-sdk==1.45.2 \\
        opentelemetry-instrumentation-openai-v2==2.3b0 opentelemetry-instrumentation-openai==0.62.4 \\
        opentelemetry-exporter-otlp-proto-common==1.45.2 httpx==0.28.1 wrapt==1.17.3
    /tmp/otel/bin/python dev/logs/emit_otel.py contrib tests/data/logs/otel_contrib.otlp.jsonl
    /tmp/otel/bin/python dev/logs/emit_otel.py openllmetry tests/data/logs/otel_openllmetry.otlp.jsonl

The old names (`gen_ai.prompt.0.content`) come from an old version:

    python3.11 -m venv /tmp/old && /tmp/old/bin/pip install openai==1.109.1 opentelemetry-sdk==1.39.1 \\
        opentelemetry-instrumentation-openai==0.40.14 opentelemetry-exporter-otlp-proto-common==1.45.2 httpx==0.28.1
    /tmp/old/bin/python dev/logs/emit_otel.py openllmetry tests/data/logs/otel_old.otlp.jsonl

Beside each `X.otlp.jsonl` (OTLP JSON, one export a line) stands `X.spans.jsonl` (the SDK's own `to_json`, one span a
line). The server is `openai_server.py`. This version of `contrib` puts no prompts into spans.
"""

import base64
import contextlib
import json
import os
import sys
from pathlib import Path

os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "gen_ai_latest_experimental"
os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "SPAN_ONLY"
os.environ["TRACELOOP_TRACE_CONTENT"] = "true"

import openai
import openai_server
from google.protobuf.json_format import MessageToDict
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Now", "parameters": {"type": "object", "properties": {}}},
}
ASSOCIATION = "traceloop.association.properties."


def main(which: str, target: Path) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "gateway"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    if which == "contrib":
        from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor
    else:
        from opentelemetry.instrumentation.openai import OpenAIInstrumentor
    OpenAIInstrumentor().instrument(tracer_provider=provider)
    provider.add_span_processor(_Who(which))
    calls(openai.OpenAI(base_url=openai_server.start(), api_key="none", max_retries=0))
    spans = exporter.get_finished_spans()
    for span in spans:
        span._events = ()  # a traceback names the folders of the machine
    lines = [_otlp(spans[i : i + 2]) for i in range(0, len(spans), 2)]
    target.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    flat = "".join(span.to_json(indent=None) + "\n" for span in spans)
    target.with_name(target.name.replace(".otlp.", ".spans.")).write_text(flat, encoding="utf-8")


class _Who(SimpleSpanProcessor):
    """Names the account on every span, as a gateway does: by `enduser.id`, or by association properties."""

    def __init__(self, which: str) -> None:
        self.which, self.count = which, 0

    def on_start(self, span, parent_context=None) -> None:
        self.count += 1
        account, session = f"customer-{self.count % 3}", f"session-{self.count % 2}"
        if self.which == "contrib":
            span.set_attributes({"enduser.id": account, "client.address": f"203.0.113.{self.count}"})
            span.set_attributes({"user_agent.original": "python-httpx/1", "gen_ai.conversation.id": session})
        else:
            span.set_attributes({ASSOCIATION + "user_id": account, ASSOCIATION + "session_id": session})

    def on_end(self, span) -> None:
        pass

    def shutdown(self) -> None:
        pass


def calls(client: openai.OpenAI) -> None:
    system = {"role": "system", "content": "You are terse."}
    client.chat.completions.create(
        model="m-large",
        messages=[system, {"role": "user", "content": "What is a monad?"}],
        temperature=0.7,
        top_p=0.9,
        max_tokens=64,
        n=3,
    )
    client.chat.completions.create(
        model="m-small",
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "شرح لي التقطير \u202e\u200b"}]},
            {"role": "assistant", "content": "..."},
            {"role": "user", "content": "And <b>=1+1</b>?"},
        ],
        tools=[TOOL],
    )
    client.responses.create(model="m-think", instructions="Think first.", input="Prove it.", max_output_tokens=128)
    with contextlib.suppress(openai.RateLimitError):
        client.chat.completions.create(model="refused", messages=[{"role": "user", "content": "again"}])
    with trace.get_tracer("app").start_as_current_span("SELECT accounts"):
        pass


def _otlp(spans) -> dict:
    """OTLP JSON: as protobuf's JSON, but ids in hex (OTLP specification, JSON encoding)."""
    message = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
    for resource in message["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for key in ("traceId", "spanId", "parentSpanId"):
                    if key in span:
                        span[key] = base64.b64decode(span[key]).hex()
    return message


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
