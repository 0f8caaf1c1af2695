"""The entry point of linking: two tables in, clusters out."""

from typing import TYPE_CHECKING

from stillproof.errors import InputError
from stillproof.guard.linking.clusters import Cluster, fold_duplicates
from stillproof.guard.linking.edge_rows import edge_rows, pair_rows
from stillproof.guard.linking.item_blocks import item_clusters
from stillproof.guard.linking.settings import LinkSettings
from stillproof.guard.linking.template_blocks import template_clusters

if TYPE_CHECKING:
    import pyarrow as pa


def link(edges: "pa.Table", pairs: "pa.Table | None", n_units: int, settings: LinkSettings) -> list[Cluster]:
    """Clusters of units that share rare fingerprints or many exact prompts far beyond chance.

    edges: one row per (unit, fp) with columns unit, fp, kind, n, expected (others are ignored); `expected` is the mean
    of n under the null that keeps the unit x hour and fingerprint x hour margins. pairs: unit_a, unit_b, n_shared,
    expected, or None. n_units: all active units of the window, those without an edge among them.

    The result is ordered (template clusters first, by density), does not depend on the order of rows, and is the same
    on every run. Density: FRAUDAR's, Hooi et al., KDD 2016, peeled as in Bahmani et al., VLDB 2012.

    Raises SchemaError for missing columns, InputError for nulls, negative counts, or more units than n_units.
    """
    from_edges = edge_rows(edges)
    _check_units(len(from_edges.unit_ids), n_units, "edges")
    found = template_clusters(from_edges, n_units, settings)
    if pairs is not None:
        from_pairs = pair_rows(pairs)
        _check_units(len(from_pairs.unit_ids), n_units, "pairs")
        found += item_clusters(from_pairs, n_units, settings)
    return fold_duplicates(found, settings.duplicate_jaccard, settings.seed)


def _check_units(present: int, n_units: int, which: str) -> None:
    if present > n_units:
        raise InputError(
            f"{present} units in the table, but n_units is {n_units}", which, "Count all active units of the window."
        )
