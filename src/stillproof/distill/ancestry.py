"""What the models ask that a teacher, or the student's first weights, come from: the strictest ancestor decides.

A folder at hand says where its model comes from; `terms.parents` gives folders of ancestors, `terms.licences` what you
declare for those of which only the name is known. An endpoint says nothing of the kind, so its lineage is not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from stillproof import lineage, terms
from stillproof.config import TeacherConfig, TermsConfig
from stillproof.errors import ConfigError
from stillproof.teacher.weights import HUB_NAME, hub_folder, smollm2_path
from stillproof.terms.path import Model, Step, ancestors_of, repository_of


def with_ancestors(
    verdict: terms.Verdict, teacher: TeacherConfig, config: TermsConfig, grants: Sequence[terms.Grant], today: date
) -> terms.Verdict:
    """The verdict on a model, with those on all that it comes from; each ancestor needs a grant that names it.

    Raises ConfigError for a folder in `terms.parents` that is not there.
    """
    place = _place(teacher)
    if place is None:
        return verdict
    grown = lineage.grow(place, _folders(config), name=verdict.model)
    models = {node.name: _model(node, config) for node in grown.nodes.values()}
    steps = [Step(edge.child, edge.parent, edge.tie != "distilled_from") for edge in grown.edges]
    faults = [f"its lineage goes round: {terms.shown_way(cycle)}" for cycle in grown.cycles[:5]]
    asked = ancestors_of(grown.root, models, steps, weights=verdict.derivative, faults=faults)
    return replace(verdict, ancestors=tuple(_granted(ancestor, grants, today) for ancestor in asked))


def _place(teacher: TeacherConfig) -> Path | None:
    """The folder or file whose words on its lineage can be read without any call; None where there is none."""
    if teacher.kind == "smollm2":
        return smollm2_path()
    if teacher.kind not in ("weights", "gguf"):
        return None
    path = Path(teacher.model).expanduser()
    if path.exists():
        return path
    return hub_folder(teacher.model) if HUB_NAME.fullmatch(teacher.model) else None


def _folders(config: TermsConfig) -> dict[str, Path]:
    folders = {name: Path(folder).expanduser() for name, folder in config.parents.items()}
    for name, folder in folders.items():
        if not folder.exists():
            raise ConfigError(f"no such folder for {name!r}: {folder}", "terms.parents", "give the ancestor's folder")
    return folders


def _model(node: lineage.Node, config: TermsConfig) -> Model:
    """What is declared for a model: its own word, else a record of ours, else the config's."""
    if node.licence is None and node.name in config.licences and repository_of(node.name, node.revision) is None:
        return Model(node.name, config.licences[node.name], "config", node.revision)
    return Model(node.name, node.licence, node.declared_by, node.revision)


def _granted(ancestor: terms.Verdict, grants: Sequence[terms.Grant], today: date) -> terms.Verdict:
    # A grant for '*' is its grantor's word on models of its own, not on what others made before.
    named = [grant for grant in grants if grant.teacher == ancestor.model]
    return ancestor if ancestor.allowed else terms.with_grants(ancestor, named, today)
