"""Parts that other packages bring: found through their entry points, or asked for by an extra.

A package offers a teacher by declaring, in its own pyproject.toml:

    [project.entry-points."stillproof.teachers"]
    mine = "my_package.teacher:open_teacher"

Nothing is imported before it is asked for by name.
"""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec

from stillproof.errors import ConfigError, MissingExtraError

GROUPS = {
    "stillproof.teachers": "a function TeacherConfig -> Teacher, named by `teacher.kind`",
}


def names(group: str) -> tuple[str, ...]:
    """The names on offer in a group, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def load(group: str, name: str) -> object:
    """The object behind a name. Raises ConfigError where no package, or more than one, offers the name.

    What the plug-in itself raises when it is imported passes through.
    """
    found = _distinct([entry for entry in entry_points(group=group) if entry.name == name])
    if not found:
        raise ConfigError(f"no plug-in named {name!r} in {group}", name, _remedy(group, name))
    if len(found) > 1:
        packages = ", ".join(sorted(entry.dist.name if entry.dist else "?" for entry in found))
        raise ConfigError(
            f"{len(found)} packages offer a plug-in named {name!r} in {group}: {packages}",
            name,
            "uninstall all but one",
        )
    return found[0].load()


def require(package: str, extra: str, what: str) -> None:
    """Raises MissingExtraError where a package that an extra brings is not installed. `what` needs it, in words."""
    if find_spec(package) is None:
        raise MissingExtraError(f"{what} need the package {package}", extra, f"pip install 'stillproof[{extra}]'")


def _distinct(entries: list[EntryPoint]) -> list[EntryPoint]:
    """One for each target: the same installation can be met twice where a path is on sys.path twice."""
    return list({entry.value: entry for entry in entries}.values())


def _remedy(group: str, name: str) -> str:
    near = difflib.get_close_matches(name, names(group), n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(repr(n) for n in near)}?"
    known = ", ".join(names(group))
    return f"known: {known}" if known else "install the package that brings it; none is installed for this group"
