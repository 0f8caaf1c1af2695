"""Signals: what tells a pool of accounts run as one from customers that happen to share a tool.

view.py         what a signal may look at
coordination.py how the members act: evenness, rhythm, step, adoption, failover
requests.py     what they ask for: novelty, shape of the requests, content, infrastructure

    @signal("evenness", group="balance", unit="bits", note="...")
    def evenness(view: View) -> Reals: ...      # [C], higher is more like one pool, NaN where it cannot be told

A signal is only ever ranked among honest clusters, so its scale does not matter. Bits overlap where signals look at the
same thing, so they are not added as they are: the weights were fitted jointly, and what another signal already says is
not counted twice. A group tells the reader which signals look at one thing. Nationality, language and names are in no
signal, and infrastructure only corroborates: it links nothing.
"""

from __future__ import annotations

from stillproof.guard.signals.registry import SIGNALS, Signalled, signal, weights
from stillproof.guard.signals.view import Reals, View

from stillproof.guard.signals import coordination, requests  # noqa: F401, isort: skip  (they fill SIGNALS)

__all__ = ["SIGNALS", "Signalled", "View", "measure", "signal", "weights"]


def measure(view: View) -> dict[str, Reals]:
    """Every signal of every case: name -> [C] float64, NaN where it could not be told."""
    return {name: entry.of(view) for name, entry in SIGNALS.items()}
