"""Intervals, p-values and e-values, with their null hypotheses and assumptions. numpy; scipy is imported late.

    intervals.py   bootstrap over clusters, Clopper and Pearson
    p_values.py    sign flips, binomial tails, Holm
    conformal.py   ranks among a reference: plain, in groups, by class; betting against exchangeability
    e_values.py    e-values of ranks and over horizons, e-BH
    online.py      online e-BH, for hypotheses that come up one after another

Every p-value here is valid: under its null P(p <= a) <= a for every a, which `tests/calibration/` simulates. Every
e-value is too: its mean under its null is 1 at most. Every interval's coverage is simulated there, and where it is not
exact the docstring says what it really is.

No global random state: functions that draw take `seed` and use the counter-based generator Philox, so the same seed
gives the same numbers on every machine.
"""

from stillproof.stats.conformal import JumpingBets, conformal_p, mondrian, weighted_tail
from stillproof.stats.e_values import LADDER, e_bh, horizon_e, ladder_best, rank_e
from stillproof.stats.intervals import Interval, cluster_bootstrap, proportion_interval
from stillproof.stats.intervals import _resample_counts as _resample_counts
from stillproof.stats.online import online_e_bh, shares
from stillproof.stats.p_values import (
    EXACT_FLIPS,
    PValue,
    binomial_log10_p,
    holm,
    holm_log10,
    paired_sign_flip,
)
from stillproof.stats.p_values import _binomial_log_term as _binomial_log_term
from stillproof.stats.p_values import _flipped_sums as _flipped_sums
from stillproof.stats.p_values import _tail_in_first_terms as _tail_in_first_terms

__all__ = [
    "EXACT_FLIPS",
    "LADDER",
    "Interval",
    "JumpingBets",
    "PValue",
    "binomial_log10_p",
    "cluster_bootstrap",
    "conformal_p",
    "e_bh",
    "holm",
    "holm_log10",
    "horizon_e",
    "ladder_best",
    "mondrian",
    "online_e_bh",
    "paired_sign_flip",
    "proportion_interval",
    "rank_e",
    "shares",
    "weighted_tail",
]
