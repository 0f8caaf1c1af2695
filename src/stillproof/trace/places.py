"""Where in a twin a word is asked for, so that a suspect's text alone shows which of two answers it learned from.

A suspect is given the prompt and the beginning of a candidate, up to a *place*, and goes on at temperature 0: does it
say the candidate's next word? Training on an answer makes its words a little likelier. That changes what is said only
where the word was nearly the likeliest before, so places are chosen there, by a control model of the owner's: the open
model that the suspect may have begun from, or another like it. What the suspect says at such a place is worth many
words elsewhere.

Places are chosen from both candidates alike, before the suspect is asked, and the coin is not seen. So the null of the
twin test holds whatever the control is: given candidates and places, the coin is fair. A pair's score for a candidate
is the sum of hits less expected hits over its places.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Reals = NDArray[np.float64]

DRIFT_NATS = 0.2
"""How far a student's margin is from that of a good control, about; places further from a tie tell little."""
_SLOPE = 0.6
"""A logistic curve of scale 0.6 s is close to a normal one of scale s."""


def worth(own_logprobs: ArrayLike, other_logprobs: ArrayLike) -> Reals:
    """How much places tell: highest where the control is torn between the candidate's token and another.

    `own_logprobs`: of the candidate's tokens by the control; `other_logprobs`: of the likeliest other token. Any shape.
    """
    own, other = np.asarray(own_logprobs, dtype=np.float64), np.asarray(other_logprobs, dtype=np.float64)
    near = np.exp(-0.5 * ((own - other) / DRIFT_NATS) ** 2)
    # Rare words move less in each other's favour: by how much less was measured once, and is no law.
    return np.asarray(near * np.exp(own / 2))


def expected_hits(own_logprobs: ArrayLike, other_logprobs: ArrayLike) -> Reals:
    """How often the candidate's token is said first at places, about. Shapes as in `worth`."""
    margin = np.asarray(own_logprobs, dtype=np.float64) - np.asarray(other_logprobs, dtype=np.float64)
    return np.asarray(1 / (1 + np.exp(-margin / (_SLOPE * DRIFT_NATS))))


def choose(values: Sequence[float] | Reals, n: int) -> NDArray[np.int64]:
    """The places worth most, `n` at most, in the order given; what is worth nothing is left out."""
    value = np.asarray(values, dtype=np.float64)
    first = np.argsort(-value, kind="stable")[:n]
    return np.sort(first[value[first] > 0])


def says(said: str, text: str) -> bool:
    """Whether what a suspect said next begins as the candidate goes on. White space before a word does not count, for
    some endpoints drop it."""
    return said.lstrip().startswith(text.strip())
