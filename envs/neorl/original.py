"""The benchmarks' own packages: are they here, and are they what their names promise?

Two names mislead. `neorl` on PyPI is an unrelated project (NeuroEvolution Optimization with Reinforcement Learning);
the benchmark NeoRL is only on GitHub. `neorl2` 0.0.1 on PyPI lacks the modules of the rewards, so that it cannot be
imported; a checkout that is installed in place has them, under the same version. So packages are told apart by what
lies on the disk; none is imported.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from controlkit.errors import ControlkitError


@dataclass(frozen=True)
class OriginalPackage:
    """A benchmark's own package.

    Attributes:
        module: what it is imported as.
        needs: a path inside it that the real one has.
        otherwise: what is installed in its place where that path is missing.
        source: where the real one is.
    """

    module: str
    needs: str
    otherwise: str
    source: str


NEORL = OriginalPackage(
    module="neorl",
    needs="data_map.json",
    otherwise="the installed package 'neorl' is an unrelated project of that name (NeuroEvolution), not the benchmark",
    source="https://github.com/polixir/NeoRL",
)
NEORL2 = OriginalPackage(
    module="neorl2",
    needs="envs/reward",
    otherwise="the installed package 'neorl2' lacks its reward modules, as 0.0.1 on PyPI does, and cannot be imported",
    source="https://github.com/polixir/NeoRL2",
)
PACKAGES = (NEORL, NEORL2)


def clash(package: OriginalPackage) -> str | None:
    """What is wrong with the package installed under this name; None where it is right or not there."""
    folder = _folder(package.module)
    return None if folder is None or (folder / package.needs).exists() else package.otherwise


def clash_note() -> str:
    """One sentence for a message about NeoRL's data or tasks: empty where no name clashes."""
    found = [text for package in PACKAGES if (text := clash(package)) is not None]
    return f"Note: {'; '.join(found)}; see 'controlkit doctor'." if found else ""


def is_there(package: OriginalPackage) -> bool:
    """Whether the benchmark's own package is installed."""
    return _folder(package.module) is not None and clash(package) is None


def require_original(package: OriginalPackage, wanted_for: str) -> None:
    """Sees to it that a benchmark's own package is there.

    Raises:
        ControlkitError: it is not, or something else goes by its name.
    """
    if not is_there(package):
        raise ControlkitError(
            clash(package) or f"the package '{package.module}' is not installed",
            where=wanted_for,
            cure=f"Clone {package.source} and install it in place: pip install -e.",
        )


def _folder(module: str) -> Path | None:
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    places = list(found.submodule_search_locations or ()) if found is not None else []
    # A folder without any module in it is no package: it may be a checkout or data that happens to lie here.
    return next((Path(place) for place in places if any(Path(place).rglob("*.py"))), None)
