"""A CycloneDX 1.7 ML-BOM of a shipped model: what it was made of, for tools that read nothing else of ours.

The model is the BOM's subject. Its pedigree's ancestors are the teacher and the first weights; the corpora are data
components; the files are listed with their hashes; the model card carries what was kept and lost, with intervals. What
CycloneDX has no word for (how an ancestor was used, what its terms say, the root over exchanges) stands in properties
that begin with `stillproof:`. Specification: ECMA-424, https://cyclonedx.org/docs/1.7/json/.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from stillproof.lineage.manifest import FileRecord, Manifest, Parent

BOM = "bom.cdx.json"
_NAMESPACE = uuid.UUID("7d1cbb6a-5a5c-4a3e-9b0e-64a1d1f0a5c3")


def ml_bom(manifest: Manifest, files: Mapping[str, FileRecord], licence: str | None) -> dict[str, Any]:
    """The BOM as a JSON object, the same for the same input.

    files: what lies in the folder when the BOM is written (neither the BOM itself nor the manifest).
    licence: the model's own, as its card gives it; None where it gives none.
    """
    subject = f"model:{manifest.name}"
    made = json.dumps([manifest.name, manifest.created, {k: v.sha256 for k, v in sorted(files.items())}])
    corpora = list(_corpora(manifest))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, made)}",
        "version": 1,
        "metadata": {
            "timestamp": manifest.created,
            "tools": {"components": [{"type": "application", "name": "stillproof", "version": manifest.version}]},
            "component": {
                "type": "machine-learning-model",
                "bom-ref": subject,
                "name": manifest.name,
                **_licences(licence),
                "pedigree": {"ancestors": [_ancestor(parent, at) for at, parent in enumerate(manifest.parents)]},
                "modelCard": {
                    "bom-ref": "card",
                    "modelParameters": {
                        "task": "text-generation",
                        "datasets": [{"ref": corpus["bom-ref"]} for corpus in corpora],
                    },
                    "quantitativeAnalysis": {"performanceMetrics": list(_metrics(manifest.retention))},
                },
                "properties": list(_properties(manifest)),
            },
        },
        "components": [*corpora, *(_file(name, record) for name, record in sorted(files.items()))],
        "dependencies": [{"ref": subject, "dependsOn": [corpus["bom-ref"] for corpus in corpora]}],
    }


def _ancestor(parent: Parent, at: int) -> dict[str, Any]:
    properties = [
        ("relation", parent.relation),
        ("identity", parent.digest),
        ("detail", parent.detail),
        ("terms:decision", parent.verdict.get("decision")),
        ("terms:record", parent.verdict.get("record")),
        ("grant", None if parent.grant is None else parent.grant.get("id")),
    ]
    hashes = {} if parent.weights is None else {"hashes": [{"alg": "SHA-256", "content": parent.weights}]}
    return {
        "type": "machine-learning-model",
        "bom-ref": f"ancestor:{at}:{parent.relation}",
        "name": parent.model,
        **_licences(parent.licence),
        **hashes,
        "properties": [_property(name, value) for name, value in properties if value is not None],
    }


def _licences(licence: str | None) -> dict[str, Any]:
    """By name, not by id: what a card declares is seldom spelt as SPDX has it, and a wrong id makes the BOM invalid."""
    return {} if not licence else {"licenses": [{"license": {"name": licence}}]}


def _corpora(manifest: Manifest) -> Iterator[dict[str, Any]]:
    for at, source in enumerate(manifest.data.get("sources") or ()):
        row = source if isinstance(source, Mapping) else {"name": source}
        digest = row.get("digest")
        hashed = isinstance(digest, str) and len(digest) == 64
        yield {
            "type": "data",
            "bom-ref": f"data:{at}",
            "name": str(row.get("name")),
            **({"hashes": [{"alg": "SHA-256", "content": digest}]} if hashed else {}),
            "data": [{"type": "dataset", "name": str(row.get("name"))}],
        }


def _file(name: str, record: FileRecord) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{name}",
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": record.sha256}],
    }


def _metrics(retention: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, value in sorted(retention.items()):
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        interval = retention.get(f"{name}_interval")
        known = interval is not None and all(bound is not None for bound in interval)
        bounds = {"lowerBound": str(interval[0]), "upperBound": str(interval[1])} if interval and known else None
        yield {"type": name, "value": str(value), **({} if bounds is None else {"confidenceInterval": bounds})}


def _properties(manifest: Manifest) -> Iterator[dict[str, str]]:
    yield _property("data-order:sha256", manifest.data_order.get("sha256"))
    config = json.dumps(manifest.config, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    yield _property("config:sha256", hashlib.sha256(config.encode("utf-8", "surrogatepass")).hexdigest())
    exchanges = manifest.extra.get("exchanges")
    if isinstance(exchanges, Mapping):
        for name in ("algorithm", "root", "n"):
            yield _property(f"exchanges:{name}", exchanges[name])


def _property(name: str, value: object) -> dict[str, str]:
    return {"name": f"stillproof:{name}", "value": str(value)}
