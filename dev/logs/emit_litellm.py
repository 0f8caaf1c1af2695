"""Writes the LiteLLM fixtures: what the real package logs of calls that it answers by `mock_response`.

    python3.11 -m venv /tmp/litellm && /tmp/litellm/bin/pip install 'litellm[proxy]==1.106.2'
    /tmp/litellm/bin/python dev/logs/emit_litellm.py tests/data/logs

Never litellm 1.82.7 or 1.82.8: those two releases were malicious. `litellm_standard.jsonl` holds the
`StandardLoggingPayload` that a CustomLogger is given, `litellm_spend.jsonl` the row of `LiteLLM_SpendLogs` that the
proxy builds of the same call (prompts in spend logs switched on).
"""

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy import proxy_server
from litellm.proxy.spend_tracking.spend_tracking_utils import get_logging_payload

proxy_server.general_settings["store_prompts_in_spend_logs"] = True
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Now", "parameters": {"type": "object", "properties": {}}},
}


class Dump(CustomLogger):
    def __init__(self) -> None:
        self.standard, self.spend = [], []

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time) -> None:
        self._keep(kwargs, response_obj, start_time, end_time)

    async def async_log_failure_event(self, kwargs, response_obj, start_time, end_time) -> None:
        self._keep(kwargs, response_obj, start_time, end_time)

    def _keep(self, kwargs, response_obj, start_time, end_time) -> None:
        self.standard.append(_clean(json.loads(json.dumps(kwargs["standard_logging_object"], default=str))))
        payload = kwargs["standard_logging_object"]
        call = dict(kwargs)
        if payload["status"] == "failure":
            # What the proxy's own failure hook writes into the metadata before it builds the row.
            parameters = dict(kwargs["litellm_params"])
            told = {"status": "failure", "error_information": payload["error_information"]}
            parameters["metadata"] = {**parameters["metadata"], **told}
            call |= {"litellm_params": parameters, "completion_start_time": end_time}
        row = get_logging_payload(call, response_obj or {}, start_time, end_time)
        self.spend.append(_clean(json.loads(json.dumps(row, default=str))))


def _clean(row: dict) -> dict:
    """Without the traceback, which names the folders of the machine, and the table of prices."""
    holders = [row, row.get("metadata")]
    text = isinstance(holders[1], str)
    if text:
        holders[1] = json.loads(holders[1])
    for holder in holders:
        if isinstance(holder, dict):
            (holder.get("error_information") or {}).pop("traceback", None)
            holder.pop("model_map_information", None)
    row.pop("error_str", None)
    if text:
        row["metadata"] = json.dumps(holders[1])
    return row


def metadata(call: int) -> dict:
    """What the proxy puts beside a call: who holds the key, and from where."""
    return {
        "user_api_key": f"{call % 2:064x}",
        "user_api_key_hash": f"{call % 2:064x}",
        "user_api_key_user_id": "" if call == 2 else f"customer-{call % 2}",
        "user_api_key_team_id": "team-7",
        "user_api_key_org_id": "org-3",
        "user_api_key_alias": None,
        "user_api_key_end_user_id": "end-user",
        "requester_ip_address": f"198.51.100.{call}",
        "user_agent": "curl/8.5",
        "headers": {"user-agent": "curl/8.5"},
    }


async def call(number: int, messages: list, **parameters: object) -> None:
    body = {"model": "gpt-4o-mini", "messages": messages, **parameters}
    body.pop("mock_response", None)
    with contextlib.suppress(litellm.RateLimitError):
        await litellm.acompletion(
            model="gpt-4o-mini",
            messages=messages,
            api_key="sk-none",
            metadata=metadata(number),
            litellm_session_id=f"session-{number % 2}",
            proxy_server_request={"url": "http://localhost/chat/completions", "method": "POST", "body": body},
            **parameters,
        )


async def main(folder: Path) -> None:
    dump = Dump()
    litellm.callbacks = [dump]
    system = {"role": "system", "content": "You are terse."}
    question = {"role": "user", "content": "What is a monad?"}
    await call(0, [system, question], mock_response="A monoid.", temperature=0.7, max_tokens=64, n=2)
    parts = [{"type": "text", "text": "شرح لي التقطير \u202e\u200b"}]
    history = [{"role": "user", "content": parts}, {"role": "assistant", "content": "..."}]
    later = {"role": "user", "content": "And <b>=1+1</b>?"}
    await call(1, [*history, later], mock_response="Two.", tools=[TOOL])
    await call(2, [question], mock_response="A monoid.", logprobs=True, top_logprobs=5)
    await call(3, [question], mock_response="litellm.RateLimitError")
    await litellm.aembedding(
        model="text-embedding-3-small", input=["x"], mock_response=[0.1], api_key="sk-none", metadata=metadata(4)
    )
    await asyncio.sleep(2)  # callbacks run behind the calls
    for name, rows in (("standard", dump.standard), ("spend", dump.spend)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"litellm_{name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
