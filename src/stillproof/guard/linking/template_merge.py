"""Which templates are the wordings of one population: groups of templates whose units overlap far beyond chance.

Average linkage, never single linkage: a popular template that overlaps with two campaigns does not join them, because
the campaigns' own templates do not overlap with each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stillproof.guard.linking.set_groups import Sets, signatures
from stillproof.guard.linking.settings import LinkSettings
from stillproof.guard.linking.tails import poisson_log10_tail

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_MIN_COMMON_UNITS = 3
_COMPANY = 6  # templates in a neighbourhood before it can vouch for a weak overlap
_COMPANY_ALIKE = 0.3
_OF_A_SIZE = 0.25
_LARGE_LINKAGE = 1 / 3
_DENSE_LIMIT = 1500  # average linkage on a full distance matrix: 9 MB and under a second
_CHUNK = 20_000_000


@dataclass(frozen=True)
class Links:
    """Linked pairs of templates (a < b), their overlap as a share of the smaller, and whether that links outright."""

    a: Ints
    b: Ints
    overlap: Floats
    strong: NDArray[np.bool_]


def merge_templates(sets: Sets, n_units: int, settings: LinkSettings) -> Ints:
    """The group of each template, labelled by its lowest template; shape (n_templates,).

    sets: the units of each template. Null hypothesis of a link: two sets of these sizes drawn at random from n_units.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(sets.start) - 1
    label = np.arange(n)
    if n < 2:
        return label
    links = _accepted(_overlapping(sets, n_units, settings), n, settings)
    if not len(links.a):
        return label
    graph = coo_array((np.ones(len(links.a), np.int8), (links.a, links.b)), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    of_link = component[links.a]
    order = np.argsort(of_link, kind="stable")
    bounds = np.flatnonzero(np.diff(of_link[order])) + 1
    for rows in np.split(order, bounds):
        part = _take(links, rows)
        members = np.unique(np.concatenate([part.a, part.b]))
        local = replace(part, a=np.searchsorted(members, part.a), b=np.searchsorted(members, part.b))
        label[members] = members[_groups(local, sets.sizes[members], settings)]
    return label


def _overlapping(sets: Sets, n_units: int, settings: LinkSettings) -> Links:
    """Pairs with an overlap that is large enough to matter and too large for chance."""
    sizes = sets.sizes
    parts = list(_products(sets, settings))
    a, b, common = (np.concatenate([part[i] for part in parts]) for i in range(3))
    small, large = np.minimum(sizes[a], sizes[b]), np.maximum(sizes[a], sizes[b])
    n = len(sizes)
    level = settings.overlap_log10_p - np.log10(max(n * (n - 1) / 2, 1.0))
    # The Poisson tail lies above that of the hypergeometric distribution with the same mean beyond mean + 1 (Hoeffding
    # 1963; Anderson and Samuels 1967), so it is the cautious one, and it is vectorised.
    tail = poisson_log10_tail(common.astype(np.float64), small * large / max(n_units, 1))
    share = common / small
    strong = (tail <= level) & (share >= settings.min_overlap)
    in_company = (tail <= settings.company_log10_p) & (share >= settings.min_overlap_in_company)
    # A popular harness is much larger than a campaign inside it; wordings of one campaign are of a size.
    of_a_size = small >= _OF_A_SIZE * large
    least = np.where(of_a_size, settings.min_overlap_in_company, settings.min_overlap_larger)
    good = (strong | in_company) & (common >= least * large)
    return Links(a[good], b[good], share[good], strong[good])


def _take(links: Links, rows: Ints) -> Links:
    return Links(links.a[rows], links.b[rows], links.overlap[rows], links.strong[rows])


def _products(sets: Sets, settings: LinkSettings) -> Iterator[tuple[Ints, Ints, Ints]]:
    """(template, template, common units) from the sparse product, in chunks of bounded work."""
    from scipy.sparse import csr_array

    n, sizes = len(sets.start) - 1, sets.sizes
    template, unit = sets.owners, sets.members
    # Per unit the rarest templates first: units of one population then keep the same ones.
    order = np.lexsort((template, sizes[template], unit))
    template, unit = template[order], unit[order]
    first = np.searchsorted(unit, unit, side="left")
    kept = np.arange(len(unit)) - first < settings.max_templates_per_unit
    template, unit = template[kept], unit[kept]
    ones = np.ones(len(unit), np.int32)
    by_template = csr_array((ones, (template, unit)), shape=(n, sets.n_members))
    by_unit = csr_array((ones, (unit, template)), shape=(sets.n_members, n))
    work = np.bincount(template, np.bincount(unit, minlength=sets.n_members)[unit], n)
    done = np.cumsum(work)
    start = 0
    while start < n:
        before = float(done[start - 1]) if start else 0.0
        stop = max(start + 1, int(np.searchsorted(done, before + _CHUNK, side="right")))
        product = (by_template[start:stop] @ by_unit).tocoo()
        a, b = product.row.astype(np.int64) + start, product.col.astype(np.int64)
        common = product.data.astype(np.int64)
        keep = (a < b) & (common >= _MIN_COMMON_UNITS)
        yield a[keep], b[keep], common[keep]
        start = stop


def _accepted(links: Links, n: int, settings: LinkSettings) -> Links:
    """Strong links, and the weaker ones between templates that have the same neighbours."""
    if bool(links.strong.all()):
        return links
    both = np.concatenate([np.arange(n), links.a, links.b]), np.concatenate([np.arange(n), links.b, links.a])
    order = np.lexsort((both[1], both[0]))
    start = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(both[0], minlength=n), out=start[1:])
    around = Sets(start, both[1][order], n)
    signature = signatures(around, settings.seed)
    weak = np.flatnonzero(~links.strong)
    weak = weak[np.minimum(around.sizes[links.a[weak]], around.sizes[links.b[weak]]) >= _COMPANY]
    alike = np.zeros(len(weak), np.int64)
    for column in range(signature.shape[1]):
        alike += signature[links.a[weak], column] == signature[links.b[weak], column]
    keep = links.strong.copy()
    keep[weak[alike >= _COMPANY_ALIKE * signature.shape[1]]] = True
    return _take(links, np.flatnonzero(keep))


def _groups(links: Links, sizes: Ints, settings: LinkSettings) -> Ints:
    """Average linkage within a component: the group of each template, labelled by its lowest; shape (n,)."""
    n = len(sizes)
    seeds = np.arange(n)
    if n > _DENSE_LIMIT:
        degree = np.bincount(links.a, minlength=n) + np.bincount(links.b, minlength=n)
        seeds = np.sort(np.lexsort((np.arange(n), -sizes, -degree))[:_DENSE_LIMIT])
    position = np.full(n, -1)
    position[seeds] = np.arange(len(seeds))
    near = _take(links, np.flatnonzero((position[links.a] >= 0) & (position[links.b] >= 0)))
    found = _average_linkage(replace(near, a=position[near.a], b=position[near.b]), len(seeds), settings)
    group = np.full(n, -1)
    group[seeds] = found
    if n > _DENSE_LIMIT:
        _attach(group, links, settings.average_linkage, 1)
    lonely = np.flatnonzero(group < 0)
    group[lonely] = group.max(initial=0) + 1 + np.arange(len(lonely))
    if n > _COMPANY:
        group = _join_large(group, links)
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    return first[inverse]


def _join_large(group: Ints, links: Links) -> Ints:
    """Merge large groups, and add small ones to them, on a smaller share of linked cross pairs.

    Wordings that each unit draws at random link at random, so average linkage leaves a few large groups and strays of
    what is one campaign. Several templates on one side at least are no bridge.
    """
    size = np.bincount(group)
    large = np.flatnonzero(size >= _COMPANY)
    if not len(large):
        return group
    position = np.full(len(size), -1)
    position[large] = np.arange(len(large))
    a, b = position[group[links.a]], position[group[links.b]]
    cross = (a >= 0) & (b >= 0)
    share = np.zeros((len(large), len(large)))
    np.add.at(share, (a[cross], b[cross]), 1.0)
    share = (share + share.T) / np.outer(size[large], size[large])
    out = np.where(position[group] >= 0, _cut(1.0 - share, 1.0 - _LARGE_LINKAGE)[position[group]], -1)
    _attach(out, links, _LARGE_LINKAGE, _COMPANY)
    # Small groups stay as they were, under labels above those of the large ones.
    return np.where(out >= 0, out, len(large) + group)


def _average_linkage(links: Links, n: int, settings: LinkSettings) -> Ints:
    distance = np.ones((n, n))
    # Mostly "linked or not"; the size of the overlap decides which pair goes first.
    distance[links.a, links.b] = 0.1 * (1.0 - links.overlap)
    return _cut(np.minimum(distance, distance.T), 1.0 - 0.95 * settings.average_linkage)


def _cut(distance: Floats, height: float) -> Ints:
    """Groups 0, 1, ... of average linkage below `height`, from a symmetric (n, n) matrix; shape (n,)."""
    from scipy.cluster.hierarchy import fcluster, linkage

    n = len(distance)
    if n < 2:
        return np.zeros(n, np.int64)
    tree = linkage(distance[np.triu_indices(n, 1)], "average")
    return np.asarray(fcluster(tree, height, "distance"), np.int64) - 1


def _attach(group: Ints, links: Links, least: float, min_size: int) -> None:
    """Let templates without a group (-1) join the one of whose templates they are linked to the most (in place).

    That share must be at least `least`, and the group have at least min_size templates.
    """
    n_groups = int(group.max(initial=-1)) + 1
    if not n_groups:
        return
    size = np.bincount(group[group >= 0], minlength=n_groups)
    a, b = np.concatenate([links.a, links.b]), np.concatenate([links.b, links.a])
    rows = (group[a] < 0) & (group[b] >= 0)
    key, count = np.unique(a[rows] * np.int64(n_groups) + group[b[rows]], return_counts=True)
    template, target = key // n_groups, key % n_groups
    share = count / size[target]
    good = (share >= least) & (size[target] >= min_size)
    template, target, share = template[good], target[good], share[good]
    order = np.lexsort((target, share, template))
    # Written in ascending order of share, so the largest stays.
    group[template[order]] = target[order]
