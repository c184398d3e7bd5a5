"""The shipped presets: plant descriptions and run configurations, found from a wheel and from a checkout alike.

In a wheel the presets lie inside the package (`controlkit/_presets`); in a checkout they lie beside it (`configs`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from controlkit.errors import ConfigError, nearest

KINDS = ("plants", "runs")
_SUFFIX = ".yaml"


def configs_root() -> Path:
    """The folder that holds `plants/` and `runs/`.

    Raises:
        ConfigError: the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_presets", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise ConfigError(
        "the shipped presets are missing from this installation",
        where=str(package),
        cure="Install controlkit again",
    )


def list_configs(kind: str) -> list[str]:
    """Names of the shipped presets of one kind (`plants` or `runs`), sorted, without suffix; `neorl/hopper` in folders.

    Raises:
        ConfigError: there is no such kind, or the installation is incomplete.
    """
    return sorted(_presets(kind))


def config_path(kind: str, name: str) -> Path:
    """The file of a shipped preset: `config_path("plants", "refrigerator")`; the suffix `.yaml` may be given or not.

    Raises:
        ConfigError: there is no such kind or preset; names the nearest one there is.
    """
    presets = _presets(kind)
    key = name.removesuffix(_SUFFIX)
    if key not in presets:
        raise ConfigError(f"no preset '{name}' is shipped", where=kind, cure=nearest(key, presets))
    return presets[key]


def find_config(kind: str, file_or_name: str | Path) -> Path:
    """A file of the user's if there is one at this path, else the shipped preset of this name.

    A name that looks like a file (it has a folder or a suffix) is looked up as a preset too, so that
    `plants/refrigerator.yaml` means the shipped one wherever the command runs.

    Raises:
        ConfigError: neither a file nor a preset; says where it looked and the nearest preset.
    """
    path = Path(file_or_name)
    if path.is_file():
        return path
    parts = [part for part in path.with_suffix("").parts if part not in (".", "configs")]
    key = "/".join(parts[1:] if parts[:1] == [kind] else parts)
    presets = _presets(kind)
    if key in presets and path.suffix in ("", _SUFFIX):
        return presets[key]
    raise ConfigError(
        "no such file, and no shipped preset of this name",
        where=str(path),
        cure=f"Check the path, or name a preset: {nearest(path.stem, presets)}",
    )


def _presets(kind: str) -> dict[str, Path]:
    if kind not in KINDS:
        raise ConfigError(f"no kind of preset is called '{kind}'", cure=nearest(kind, KINDS))
    folder = configs_root() / kind
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in _files(folder)}


def _files(folder: Path) -> Iterator[Path]:
    return folder.rglob(f"*{_SUFFIX}") if folder.is_dir() else iter(())
