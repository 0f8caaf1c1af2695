"""trace weights: do the weights of two models have a common origin, and which layer came from where?

    reading.py       tensors on disk, memory-mapped: safetensors, shards; a pickle is never loaded
    gguf_file.py     the same for GGUF, dequantised
    layers.py        which tensor of which architecture is which
    matching.py      hidden units matched, and the exact laws of a matching between strangers
    similarity.py    rotations, CKA and agreement of matchings, which have no law of their own
    localisation.py  which layer of A stands where in B
    comparing.py     everything that two models allow to be measured
    reference.py     the same numbers of independent pairs
    judging.py       Findings, layers, direction, decision
    direction.py     hints which of the two was there first
    index.py         sketches of known models, to match a suspect without keeping their weights
    candidates.py    a suspect against an index, as `trace index match` and `trace lineage --index` show it
    palimpsest.py    was the suspect trained in our logged order?

numpy and scipy; no torch.
"""

from stillproof.trace.weights.judging import Compared, compare

__all__ = ["Compared", "compare"]
