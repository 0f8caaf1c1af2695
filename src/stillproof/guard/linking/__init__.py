"""From shared fingerprints to clusters of units: which customers might be one campaign?

A cluster is a candidate, never a verdict. It is what the later steps freeze, and on what happened after that they test
it. So this step aims at recall of campaigns and at clean membership, and leaves honest groups (a popular harness, a
classroom) in the list as clusters of their own, where their evidence is compared with that of others.

    edges -> weights            tails.py             how surprising one edge is
          -> templates          set_groups.py        fingerprints that the same units hold
          -> candidate groups   template_merge.py    templates whose units overlap far beyond chance
          -> dense blocks       peeling.py           without chance members and popular fingerprints
    pairs -> blocks of items    item_blocks.py       units that share many exact prompts
          -> clusters           clusters.py          duplicates folded; matched with the frozen ones
"""

from stillproof.guard.linking.clusters import Cluster, match, match_all
from stillproof.guard.linking.search import link
from stillproof.guard.linking.settings import LinkSettings

__all__ = ["Cluster", "LinkSettings", "link", "match", "match_all"]
