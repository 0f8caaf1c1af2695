"""The plan of a performance: calls, tokens and time, from the size's numbers and speeds that were measured.

Speeds are those of one core for tiny models, measured while others worked on the machine, and of two for SmolLM2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stillproof.demo.sizes import Size

PROMPT_TOKENS = 24
"""Of a prompt, template included, in round numbers."""

_SPEED = {"tiny": (2_700.0, 7_000.0), "smollm2": (475.0, 950.0)}
"""Tokens generated, and trained on, in a second."""

_SYNC_S = 0.004
"""A write that must be on the disk before the next; many disks are faster."""
_WRITES_A_CALL = 5
_CONTROLS = 2
"""Models of the owner that read the twins as the three students do."""
_GUARD_S = 25.0
_DECOY_PAIRS_A_S = 20e6
_DECOYS = 10_000


def estimate(size: Size) -> dict[str, Any]:
    """See the module. No text is composed and nothing is loaded."""
    crowd, audit = size.crowd, size.audit
    campaign = round(crowd.campaign_accounts * crowd.campaign_rate * crowd.campaign_days)
    licensed = round(crowd.licensed_rate * crowd.licensed_days)
    served = campaign + licensed
    generated = round(served * (1 + size.twins) * size.answer_tokens)
    row = PROMPT_TOKENS + size.answer_tokens
    trained = size.epochs * row * (2 * campaign + licensed)
    if size.teacher == "tiny":
        trained += (PROMPT_TOKENS + 70) * (size.tiny.teacher_texts + size.tiny.start_texts)
    asked = 3 * (audit.prompts + audit.card_prompts)
    read = (3 + _CONTROLS) * 2 * round(served * size.twins)
    generate_speed, train_speed = _SPEED[size.teacher]
    decoys_s = 4 * audit.prompts * audit.tokens * _DECOYS / _DECOY_PAIRS_A_S
    seconds = (
        (generated + asked * audit.tokens) / generate_speed
        + (trained + read * row / 3) / train_speed
        + (_WRITES_A_CALL * served + asked + read) * _SYNC_S
        + decoys_s
        + _GUARD_S
    )
    return {
        "size": size.name,
        "calls_served": served,
        "accounts_of_the_campaign": crowd.campaign_accounts,
        "tokens_generated": generated + asked * audit.tokens,
        "tokens_trained": trained,
        "calls_to_suspects": asked,
        "texts_read": read,
        "usd": 0.0,
        "minutes": round(seconds / 60, 1),
        "network": "none",
    }
