"""Keyed watermarks, torch-free: mark when sampling, and score token sequences under the same key.

prf.py       counter-based pseudo-random words of (key, window, token): the same on every platform
keys.py      the secret, its public commitment, sub-keys of accounts, decoy keys
marking.py   bias and uniforms of candidate tokens; a sampler on logits
scoring.py   sums of scores for many keys at once, and their law where the text knows nothing of the key
best_of.py   choosing among an API's answers, where logits are not in our hands

tensors.py, transformers_adapter.py, vllm_adapter.py   marking in other engines, on tensors of any device
reading.py, synthid.py, kgw.py                         reading marks that transformers made: SynthID-Text, green lists

A window is the `k` tokens before a token. Green list (Kirchenbauer et al., A watermark for large language models, ICML
2023): a token is green after a window with probability gamma, and green tokens get delta added to their logits. Gumbel
(Aaronson, 2022; two keys: Sander et al., TextSeal, 2026): the token with the largest u^(1/p) is served, which leaves
each token's distribution as it was. What a mark proves of a suspect is `stillproof.trace.radioactivity`'s matter.
"""

from stillproof.watermark.best_of import Choice, choose_best
from stillproof.watermark.keys import MarkKey, Scheme, decoy_lanes, verify_commitment
from stillproof.watermark.kgw import read_kgw
from stillproof.watermark.marking import Marker, green_bias, gumbel_uniforms, prompt_windows, top_candidates
from stillproof.watermark.prf import RowPrf, Stream, philox, prf_words, window_code, window_codes
from stillproof.watermark.scoring import Law, law_of, score_lanes
from stillproof.watermark.synthid import read_synthid

__all__ = [
    "Choice",
    "Law",
    "MarkKey",
    "Marker",
    "RowPrf",
    "Scheme",
    "Stream",
    "choose_best",
    "decoy_lanes",
    "green_bias",
    "gumbel_uniforms",
    "law_of",
    "philox",
    "prf_words",
    "prompt_windows",
    "read_kgw",
    "read_synthid",
    "score_lanes",
    "top_candidates",
    "verify_commitment",
    "window_code",
    "window_codes",
]
