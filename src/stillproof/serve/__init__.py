"""What a model's owner keeps while serving: which answers went out, and the coins and keys that prove things later.

    KeyRing    custody.py    keys by name and version, owner only; commitments to publish before serving
    Ledger     ledger.py     sealed coins and facts, keyed by exchange id; never beside the exchanges, never exported
    Recorder   recorder.py   a Teacher that stores what it answers, accounts pseudonymised
    endpoint   endpoint.py   a Teacher behind a small OpenAI-compatible HTTP server, for trying and for tests

The order that makes a later proof possible: create a key, publish its commitment, serve (toss, note, then answer),
and open the key only when a claim is made.
"""

from stillproof.serve.custody import Commitment, KeyRing, Opening, opens
from stillproof.serve.endpoint import Endpoint, endpoint
from stillproof.serve.ledger import Entry, Ledger, coin
from stillproof.serve.recorder import Recorder, new_id

__all__ = [
    "Commitment",
    "Endpoint",
    "Entry",
    "KeyRing",
    "Ledger",
    "Opening",
    "Recorder",
    "coin",
    "endpoint",
    "new_id",
    "opens",
]
