"""Check the terms records against the licence texts of scancode-toolkit-mini: quotes, digests, carried copies.

    pip install --no-deps --target /tmp/scancode scancode-toolkit-mini
    python dev/terms/check_quotes.py /tmp/scancode

Exit code 0 where every record that names a scancode text agrees with it, 1 with one line for each fault.
"""

import sys
from pathlib import Path

from stillproof.terms import TermsRecord, records, text_digest


def body(path: Path) -> str:
    """A licence text without its YAML front matter."""
    head, _, text = path.read_text(encoding="utf-8").partition("\n---\n")
    if not head.startswith("---"):
        raise ValueError(f"{path}: no front matter")
    return text


def faults_of(record: TermsRecord, site: Path) -> list[str]:
    """What in this record does not stand in the text it names."""
    path = site / record.source.partition(", ")[2].partition(",")[0]
    if not path.is_file():
        return [f"{record.id}: no {path}"]
    text = body(path)
    folded = " ".join(text.split())
    faults = [
        f"{record.id}: not in the text: {clause.quote!r}"
        for clause in record.clauses
        if " ".join(clause.quote.split()) not in folded
    ]
    if text_digest(text) != record.sha256:
        faults.append(f"{record.id}: the text's SHA-256 is {text_digest(text)}, the record says {record.sha256}")
    carried = record.licence_text()
    if carried is not None and text_digest(carried) != text_digest(text):
        faults.append(f"{record.id}: data/licences/{record.text} differs from the text")
    return faults


def main(site: Path) -> int:
    checked = [record for record in records() if record.source.startswith("scancode-toolkit-mini")]
    faults = [fault for record in checked for fault in faults_of(record, site)]
    others = [record.id for record in records() if record not in checked]
    sys.stdout.write("".join(f"{fault}\n" for fault in faults))
    sys.stdout.write(f"{len(checked)} records checked, {len(faults)} faults; no text held for: {', '.join(others)}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
