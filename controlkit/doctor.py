"""What is installed, what is missing and what for, and whether a name means something else than it seems.

Versions are read from the packages' metadata; of all of them only torch is imported, to ask for a GPU.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PROJECT = "controlkit"
# What each extra of pyproject.toml is for.
PURPOSES: Mapping[str, str] = {
    "train": "ingest, training, evaluation and export",
    "sim": "simulated plants as gymnasium environments",
    "sql": "logs in SQL databases",
    "data": "D4RL's HDF5 files, Minari data sets",
    "neorl": "the MuJoCo and Box2D tasks of NeoRL and NeoRL-2",
    "collect": "training behaviour policies for regenerated logs",
    "opcua": "plants over OPC UA",
    "ray": "sweeps over several machines",
    "mlflow": "tracking of runs",
    "dev": "tests, types and style",
}
_NAME = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(?:>=\s*([0-9.]+))?")

State = Literal["ok", "missing", "old", "clash"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        state: `missing` and `old` are no faults: not everybody needs every extra. A `clash` is one.
        name: of the package or thing.
        text: version, purpose, or what is wrong and how to mend it.
    """

    state: State
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.state:<8}{self.name:<20} {self.text}"


def examine() -> tuple[Finding, ...]:
    """Python, the base packages, each extra with its packages, the GPU, and clashes of names."""
    requirements = _requirements()
    findings = [
        Finding("ok", PROJECT, _version(PROJECT) or "of a checkout"),
        Finding("ok", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *_packages(line for line in requirements if "extra ==" not in line),
    ]
    for extra, purpose in PURPOSES.items():
        found = _packages(line for line in requirements if re.search(rf"extra == ['\"]{extra}['\"]", line))
        lacking = [finding for finding in found if finding.state != "ok"]
        if not found:
            findings.append(Finding("old", f"[{extra}]", f"{purpose}; the installation is older: install it again"))
            continue
        cure = f"; pip install '{PROJECT}[{extra}]'" if lacking else ""
        findings += [Finding("missing" if lacking else "ok", f"[{extra}]", f"{purpose}{cure}"), *found]
    return (*findings, _gpu(), *clashes())


def clashes() -> tuple[Finding, ...]:
    """Packages that go by a name that means something else here."""
    found = _foreign_rooms()
    if not any(finding.name == "envs" for finding in found):
        from envs.neorl import original  # only now: another package called envs has no such module

        found += [
            Finding("clash", package.module, f"{text}; remove it: pip uninstall {package.module} (the real one: "
                    f"{package.source})")
            for package in original.PACKAGES
            if (text := original.clash(package)) is not None
        ]  # fmt: skip
    return tuple(found)


def _foreign_rooms() -> list[Finding]:
    """Those of our own packages beside this one whose name leads elsewhere."""
    found, home = [], Path(__file__).resolve().parents[1]
    for module in ("envs", "deploy"):
        spec = importlib.util.find_spec(module)
        place = Path(spec.origin).resolve().parents[1] if spec is not None and spec.origin else None
        if place != home:
            found.append(Finding("clash", module, f"is imported from {place}, not from {home}: another package has it"))
    return found


def _requirements() -> list[str]:
    """The lines of the installed metadata; none where the project only lies on the path."""
    try:
        return importlib.metadata.requires(PROJECT) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _packages(requirements: Iterable[str]) -> list[Finding]:
    """One finding for each package that a list of requirements names."""
    findings = []
    for requirement in requirements:
        match = _NAME.match(requirement)
        assert match is not None, requirement
        name, least = match[1], match[2]
        version = _version(name)
        if version is None:
            findings.append(Finding("missing", f"  {name}", f"{least} or newer is needed" if least else ""))
        elif least is not None and _numbers(version) < _numbers(least):
            findings.append(Finding("old", f"  {name}", f"{version}; {least} or newer is needed"))
        else:
            findings.append(Finding("ok", f"  {name}", version))
    return findings


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def _gpu() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as problem:  # a build for another machine fails to load its libraries
        return Finding("missing", "GPU", f"torch cannot be imported ({type(problem).__name__}), so none can be used")
    if not torch.cuda.is_available():
        return Finding("missing", "GPU", f"torch {torch.__version__} sees none; everything runs on the processor")
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return Finding("ok", "GPU", f"{names} (CUDA {torch.version.cuda})")
