"""Writes the OpenAI-style fixture: bodies that the real `openai` client sends and gets, logged as a proxy logs them.

    python3.11 -m venv /tmp/openai && /tmp/openai/bin/pip install openai==1.109.1 httpx==0.28.1
    /tmp/openai/bin/python dev/logs/emit_openai.py tests/data/logs/openai.jsonl

The server is `openai_server.py`. Envelope times are made up, so that the fixture does not depend on the clock.
"""

import contextlib
import json
import sys
from pathlib import Path

import httpx
import openai
import openai_server

TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Now", "parameters": {"type": "object", "properties": {}}},
}


def main(target: Path) -> None:
    lines = []

    def keep(response: httpx.Response) -> None:
        response.read()
        number = len(lines)
        line = {
            "request_id": f"req-{number}",
            "timestamp": f"2026-09-21T14:{number:02d}:00.250Z",
            "account": f"customer-{number % 2}",
            "organisation": "acme",
            "ip": f"203.0.113.{number}",
            "user_agent": response.request.headers["user-agent"],
            "plan": "pro",
            "signup": "2026-09-01",
            "status": response.status_code,
            "latency_ms": 120,
            "request": json.loads(response.request.content),
            "response": response.json(),
        }
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")

    http = httpx.Client(event_hooks={"response": [keep]})
    calls(openai.OpenAI(base_url=openai_server.start(), api_key="none", max_retries=0, http_client=http))
    target.write_text("".join(lines), encoding="utf-8")


def calls(client: openai.OpenAI) -> None:
    system = {"role": "system", "content": "You are terse."}
    question = {"role": "user", "content": "What is a monad?"}
    client.chat.completions.create(
        model="m-large",
        messages=[system, question],
        temperature=0.7,
        max_completion_tokens=64,
        n=3,
        logprobs=True,
        top_logprobs=5,
        user="end-user",
    )
    parts = [{"type": "text", "text": "شرح لي التقطير \u202e\u200b"}]
    later = {"role": "user", "content": "And <b>=1+1</b>?"}
    history = [{"role": "user", "content": parts}, {"role": "assistant", "content": "..."}, later]
    client.chat.completions.create(model="m-small", messages=history, tools=[TOOL])
    asked = [{"role": "user", "content": "Prove it."}]
    answer = client.responses.create(
        model="m-think",
        instructions="Think first.",
        input=asked,
        include=["reasoning.encrypted_content"],
        store=False,
        max_output_tokens=128,
    )
    sent_back = [*asked, *(item.model_dump(exclude_none=True) for item in answer.output)]
    client.responses.create(
        model="m-think", input=[*sent_back, {"role": "user", "content": "Shorter."}], store=False, instructions="Think."
    )
    with contextlib.suppress(openai.RateLimitError):
        client.chat.completions.create(model="refused", messages=[question])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
