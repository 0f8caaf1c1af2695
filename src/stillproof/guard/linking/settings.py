"""The thresholds of linking, each with the reason for its value."""

from dataclasses import dataclass

from stillproof.errors import ConfigError


@dataclass(frozen=True)
class LinkSettings:
    """Thresholds of `link`. Probabilities are given as log10 and hold under the null of the edges table.

    Raises ConfigError for a value out of range.
    """

    # Smaller groups cannot be told from colleagues who share a text.
    min_units: int = 8
    # A fingerprint of more than this share of all units says nothing about anybody.
    max_share: float = 0.5
    # An edge less surprising than this is left out of every block.
    edge_log10_p: float = -1.3
    # A member's exchanges within the block, all wordings together, must be this surprising.
    member_log10_p: float = -4.0
    # Bits above this add nothing: otherwise the busiest members would be the block, and the quiet ones would be peeled.
    cap_bits: float = 20.0
    # The c of FRAUDAR's column weight 1 / log(degree + c).
    popularity_offset: float = 5.0
    # Exact Jaccard index of unit sets from which two fingerprints are one template.
    template_jaccard: float = 0.5
    # Overlap of two templates, as a share of the smaller, that links them outright...
    min_overlap: float = 0.3
    # ...and the overlap that links them if they also have most of their neighbours in common (many sparse wordings).
    min_overlap_in_company: float = 0.05
    # Overlap as a share of the larger, where that is much larger: keeps a popular harness from swallowing a campaign.
    min_overlap_larger: float = 0.2
    # Overlap must be this surprising for two sets of units drawn at random: after Bonferroni over all pairs of
    # templates for an outright link, per pair for one in company, where the common neighbours are the evidence.
    overlap_log10_p: float = -6.0
    company_log10_p: float = -4.0
    # Share of cross pairs that must be linked for two groups to merge; above 1/2, so that no template is a bridge.
    average_linkage: float = 0.6
    # A template belongs to a block if at least this share of its holders are in the dense core.
    min_specific: float = 0.5
    # Heavy units (gateways) enter the overlaps with their rarest templates only: the product is quadratic in this.
    max_templates_per_unit: int = 128
    # Batch peeling removes the nodes within this factor of the lowest degree at once.
    peel_epsilon: float = 0.1
    # Item pairs: shared exact prompts, and p after Bonferroni.
    min_shared_items: int = 3
    pair_log10_p: float = -6.0
    # A pair of units of one long list shares few prompts: it links where both have so many partners of that kind, each
    # of them this surprising.
    weak_pair_log10_p: float = -2.0
    min_weak_partners: int = 8
    # Every member of an items cluster shares items with at least this many other members.
    min_item_links: int = 3
    # Clusters with a Jaccard index of units from here on are one.
    duplicate_jaccard: float = 0.7
    # A unit whose weight towards the densest block is at least this share of the mean of its units is in the core as
    # well: the densest block alone would be the busier half of any campaign.
    core_share: float = 0.5
    # Of the min-hash permutations; any value gives the same clusters but for near-ties at the Jaccard threshold.
    seed: int = 0

    def __post_init__(self) -> None:
        shares = ("max_share", "template_jaccard", "min_overlap", "min_overlap_in_company", "min_overlap_larger")
        for name in (*shares, "average_linkage", "core_share", "min_specific", "duplicate_jaccard"):
            value: float = getattr(self, name)
            if not 0 < value <= 1:
                raise ConfigError(f"{name} is {value}", name, "Give a share above 0 and at most 1.")
        levels = ("edge_log10_p", "member_log10_p", "overlap_log10_p", "company_log10_p")
        for name in (*levels, "pair_log10_p", "weak_pair_log10_p"):
            level: float = getattr(self, name)
            if not level < 0:
                raise ConfigError(f"{name} is {level}", name, "Give a log10 probability below 0.")
        counts = {"min_units": 2, "max_templates_per_unit": 2, "min_item_links": 1, "min_weak_partners": 1}
        for name, lowest in counts.items():
            count: int = getattr(self, name)
            if count < lowest:
                raise ConfigError(f"{name} is {count}", name, f"Give at least {lowest}.")
        if not (self.cap_bits > 0 and self.popularity_offset > 1 and self.peel_epsilon > 0):
            raise ConfigError(
                "cap_bits, popularity_offset or peel_epsilon is out of range",
                "LinkSettings",
                "cap_bits and peel_epsilon are above 0, popularity_offset above 1.",
            )
