"""Clusters from template fingerprints: templates, candidate groups, dense cores, and who belongs to them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillproof.guard.linking.clusters import Cluster
from stillproof.guard.linking.edge_rows import N_KINDS, SHINGLE_KIND, SHINGLES_AN_EXCHANGE, EdgeRows
from stillproof.guard.linking.peeling import Graphs, densest
from stillproof.guard.linking.set_groups import Sets, distinct, leaders
from stillproof.guard.linking.settings import LinkSettings
from stillproof.guard.linking.tails import poisson_log10_tail
from stillproof.guard.linking.template_merge import merge_templates

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_PEEL_ROUNDS = 4


@dataclass(frozen=True)
class Templates:
    """Groups of fingerprints of nearly the same units, and the weighted edges (template, unit), sorted."""

    of_fp: Ints  # template of each fingerprint, -1 for those left out
    n_templates: int
    template: Ints
    unit: Ints
    weight: Floats

    def sets(self, n_units: int) -> Sets:
        start = np.zeros(self.n_templates + 1, np.int64)
        np.cumsum(np.bincount(self.template, minlength=self.n_templates), out=start[1:])
        return Sets(start, self.unit, n_units)


def template_clusters(rows: EdgeRows, n_units: int, settings: LinkSettings) -> list[Cluster]:
    """Clusters of kind 'template', unordered, duplicates not folded."""
    templates = find_templates(rows, n_units, settings)
    if not templates.n_templates:
        return []
    group = merge_templates(templates.sets(len(rows.unit_ids)), n_units, settings)
    block = _blocks(templates, group, settings)
    block_of_fp = np.where(templates.of_fp >= 0, block[templates.of_fp], -1)
    member_block, member_unit = _members(rows, block_of_fp, settings)
    return _clusters(rows, templates, block, (member_block, member_unit), settings)


def find_templates(rows: EdgeRows, n_units: int, settings: LinkSettings) -> Templates:
    """Fingerprints with an exact Jaccard index of units >= template_jaccard to a leader are one template.

    An edge weighs min(cap_bits, -log2 p) / log2(degree + c): of the fingerprints of one template the largest counts,
    since they are the same exchanges seen again.
    """
    usable = rows.log10_p <= settings.edge_log10_p
    degree = np.bincount(rows.fp[usable], minlength=len(rows.fp_ids))
    kept = (degree >= settings.min_units) & (rows.fp_degree <= settings.max_share * n_units)
    usable &= kept[rows.fp]
    fps = np.flatnonzero(kept)
    of_fp = np.full(len(rows.fp_ids), -1)
    if not len(fps):
        empty = np.zeros(0, np.int64)
        return Templates(of_fp, 0, empty, empty, np.zeros(0))
    start = np.zeros(len(fps) + 1, np.int64)
    np.cumsum(degree[fps], out=start[1:])
    sets = Sets(start, rows.unit[usable], len(rows.unit_ids))
    priority = np.empty(len(fps), np.int64)
    priority[np.lexsort((np.arange(len(fps)), -degree[fps]))] = np.arange(len(fps))
    leader = leaders(sets, priority, settings.template_jaccard, settings.seed)
    heads, code = np.unique(leader, return_inverse=True)
    of_fp[fps] = code
    popularity = np.zeros(len(heads))
    np.maximum.at(popularity, code, rows.fp_degree[fps].astype(np.float64))
    bits = np.minimum(-rows.log10_p[usable] / np.log10(2.0), settings.cap_bits)
    template, unit = of_fp[rows.fp[usable]], rows.unit[usable]
    key = template * np.int64(len(rows.unit_ids)) + unit
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.concatenate([[True], np.diff(key[order]) != 0]))
    best = np.maximum.reduceat(bits[order], first)
    template, unit = template[order][first], unit[order][first]
    weight = best / np.log2(popularity + settings.popularity_offset)[template]
    return Templates(of_fp, len(heads), template, unit, weight)


def _blocks(templates: Templates, group: Ints, settings: LinkSettings) -> Ints:
    """The block of each template. A round peels all groups at once; what is not specific to a core is peeled again."""
    block = np.full(templates.n_templates, -1)
    label = group.copy()
    n_blocks = 0
    for round_ in range(_PEEL_ROUNDS):
        active = np.flatnonzero(block < 0)
        if not len(active):
            break
        alone = np.bincount(label[active], minlength=templates.n_templates)[label] == 1
        # A template by itself has no core to look for: its members are those who use it beyond chance.
        single = active[alone[active]] if round_ < _PEEL_ROUNDS - 1 else active
        block[single] = n_blocks + np.arange(len(single))
        n_blocks += len(single)
        rest = block < 0
        specific = _specific(templates, label, rest, settings)
        found, code = np.unique(label[specific], return_inverse=True)
        block[specific] = n_blocks + code
        n_blocks += len(found)
        fruitless = rest & ~np.isin(label, found)
        label[fruitless] = np.flatnonzero(fruitless)
    return block


def _specific(templates: Templates, label: Ints, rest: Bools, settings: LinkSettings) -> Ints:
    """Templates of `rest` most of whose holders are in the dense core of their group."""
    rows = np.flatnonzero(rest[templates.template])
    if not len(rows):
        return np.zeros(0, np.int64)
    template, unit = templates.template[rows], templates.unit[rows]
    n_units = np.int64(templates.unit.max() + 1)
    pair, unit_node = np.unique(label[template] * n_units + unit, return_inverse=True)
    nodes, template_node = np.unique(template, return_inverse=True)
    groups, code = np.unique(np.concatenate([pair // n_units, label[nodes]]), return_inverse=True)
    graphs = Graphs(code, len(groups), unit_node, template_node + len(pair), templates.weight[rows])
    alive = densest(graphs, settings.peel_epsilon)
    core = _with_quieter_units(graphs, alive, len(pair), settings)
    inside = np.bincount(template_node, core[unit_node], len(nodes)) / np.bincount(template_node)
    return nodes[inside >= settings.min_specific]


def _with_quieter_units(graphs: Graphs, alive: Bools, n_pairs: int, settings: LinkSettings) -> Bools:
    """The unit nodes of the core: those of the densest block, and those that resemble them; shape (n_pairs,)."""
    towards = alive[graphs.b]
    weight = np.bincount(graphs.a[towards], graphs.weight[towards], n_pairs)
    group, dense = graphs.group[:n_pairs], alive[:n_pairs]
    size = np.maximum(np.bincount(group[dense], minlength=graphs.n_groups), 1)
    mean = np.bincount(group[dense], weight[dense], graphs.n_groups) / size
    return dense | ((weight > 0) & (weight >= settings.core_share * mean[group]))


def _members(rows: EdgeRows, block_of_fp: Ints, settings: LinkSettings) -> tuple[Ints, Ints]:
    """(block, unit) pairs of the members, sorted.

    Null hypothesis: the unit's exchanges within the block's fingerprints are Poisson with the sum of the expectations,
    fingerprints that it never used among them (so a block of many wordings does not collect whoever hit one by chance).
    Each kind counts an exchange once, so kinds are tested apart and the smallest p is multiplied by their number.
    """
    used = np.flatnonzero(block_of_fp[rows.fp] >= 0)
    block, unit, fp = block_of_fp[rows.fp[used]], rows.unit[used], rows.fp[used]
    kind = rows.fp_kind[fp]
    in_block = np.flatnonzero(block_of_fp >= 0)
    n_blocks = int(block_of_fp.max()) + 1
    whole = np.bincount(
        block_of_fp[in_block] * N_KINDS + rows.fp_kind[in_block], rows.fp_total[in_block], n_blocks * N_KINDS
    )
    n_kinds = np.count_nonzero(whole.reshape(n_blocks, N_KINDS), axis=1)
    n_unit = np.int64(len(rows.unit_ids))
    key = (block * n_unit + unit) * N_KINDS + kind
    found, code = np.unique(key, return_inverse=True)
    n, expected, total = (
        np.bincount(code, values).astype(np.float64)
        for values in (rows.n[used], rows.expected[used], rows.fp_total[fp])
    )
    pair, found_kind = found // N_KINDS, found % N_KINDS
    found_block, found_unit = pair // n_unit, pair % n_unit
    unused = np.maximum(whole[found_block * N_KINDS + found_kind] - total, 0.0)
    share = np.where(found_kind == SHINGLE_KIND, 1.0 / SHINGLES_AN_EXCHANGE, 1.0)
    log10_p = poisson_log10_tail(n * share, (expected + rows.unit_rate[found_unit] * unused) * share)
    good = log10_p + np.log10(n_kinds[found_block]) <= settings.member_log10_p
    members = distinct(pair[good])
    return members // n_unit, members % n_unit


def _clusters(
    rows: EdgeRows, templates: Templates, block: Ints, members: tuple[Ints, Ints], settings: LinkSettings
) -> list[Cluster]:
    n_blocks = int(block.max()) + 1
    size = np.bincount(members[0], minlength=n_blocks)
    n_unit = np.int64(len(rows.unit_ids))
    of_edge = block[templates.template]
    inside = np.isin(of_edge * n_unit + templates.unit, members[0] * n_unit + members[1])
    weight = np.bincount(of_edge[inside], templates.weight[inside], n_blocks)
    density = weight / np.maximum(size + np.bincount(block, minlength=n_blocks), 1)
    fps = np.flatnonzero(templates.of_fp >= 0)
    fp_block = block[templates.of_fp[fps]]
    order = np.argsort(fp_block, kind="stable")
    fp_start = np.searchsorted(fp_block[order], np.arange(n_blocks + 1))
    unit_start = np.searchsorted(members[0], np.arange(n_blocks + 1))
    out: list[Cluster] = []
    for index in np.flatnonzero(size >= settings.min_units).tolist():
        units = rows.unit_ids[members[1][unit_start[index] : unit_start[index + 1]]]
        own = rows.fp_ids[np.sort(fps[order[fp_start[index] : fp_start[index + 1]]])]
        out.append(Cluster(units, own, "template", float(density[index])))
    return out
