"""Where a model comes from: what it declares, what was tested, and one manifest beside its weights.

    manifest.py   stillproof.json: parents, data, order, licences, and the SHA-256 of every file
    declared.py   what a folder says of itself: card, adapter, mergekit, GGUF, config, our manifest
    gguf_head.py  the metadata of a GGUF file, without its tensors
    tree.py       models and the edges between them: declared, tested, contradicted; cycles
    merkle.py     one root over salted hashes of exchanges, and proofs of single ones
    bom.py        a CycloneDX 1.7 ML-BOM of a manifest
    signature.py  a signature over every file, in the format of OpenSSF model-signing

Nothing that a folder says is believed, only reported. No file that a folder names is opened.
"""

from stillproof.lineage.declared import Claim, claims, declared
from stillproof.lineage.manifest import (
    MANIFEST,
    Difference,
    FileRecord,
    Manifest,
    Parent,
    Relation,
    file_sha256,
    files_of,
    read_manifest,
    verify_manifest,
    version,
    write_manifest,
)
from stillproof.lineage.tree import Edge, Lineage, Node, grow

__all__ = [
    "MANIFEST",
    "Claim",
    "Difference",
    "Edge",
    "FileRecord",
    "Lineage",
    "Manifest",
    "Node",
    "Parent",
    "Relation",
    "claims",
    "declared",
    "file_sha256",
    "files_of",
    "grow",
    "read_manifest",
    "verify_manifest",
    "version",
    "write_manifest",
]
