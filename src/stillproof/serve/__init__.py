"""What a model's owner keeps while serving: which answers went out, and the coins and keys that prove things later.

    KeyRing    custody.py    keys by name and version, owner only; commitments to publish before serving
    Ledger     ledger.py     sealed coins and facts, keyed by exchange id; never beside the exchanges, never exported
    Recorder   recorder.py   a Teacher that stores what it answers, accounts pseudonymised
    Coined     coined.py     a Teacher that draws twins, plants evidence cards and tosses their coins
    Twin       twins.py      two answers alike and the coin between them, as the ledger keeps them
    Scopes     scopes.py     kinds of prompt, each with cards of its own
    marked.py                weights that answer under a watermark key
    endpoint   endpoint.py   a Teacher behind a small OpenAI-compatible HTTP server, for trying and for tests

The order that makes a later proof possible: create a key, publish its commitment, serve (toss, note, then answer),
and open the key only when a claim is made.
"""

from stillproof.serve.coined import CardKey, Coined, CoinRules
from stillproof.serve.custody import Commitment, KeyRing, Opening, opens
from stillproof.serve.endpoint import Endpoint, endpoint
from stillproof.serve.ledger import Entry, Ledger, coin
from stillproof.serve.recorder import Recorder, new_id
from stillproof.serve.scopes import Scopes, read_scopes
from stillproof.serve.twins import Candidate, Processing, Twin, twins_in

__all__ = [
    "Candidate",
    "CardKey",
    "CoinRules",
    "Coined",
    "Commitment",
    "Endpoint",
    "Entry",
    "KeyRing",
    "Ledger",
    "Opening",
    "Processing",
    "Recorder",
    "Scopes",
    "Twin",
    "coin",
    "endpoint",
    "new_id",
    "opens",
    "read_scopes",
    "twins_in",
]
