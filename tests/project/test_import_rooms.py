"""The contract of import directions breaks where it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.import_rooms import parse_rooms

ROOT = Path(__file__).parents[2]

CONTRACT = """
[tool.importlinter]
root_packages = ["plant"]
contract_types = ["rooms: tools.import_rooms.RoomsContract"]

[[tool.importlinter.contracts]]
name = "directions"
type = "rooms"
everywhere = ["plant.errors"]
rooms = [
    "plant.errors:",
    "plant.spec:",
    "plant.models: plant.spec",
    "plant.models.losses:",
    "plant.benchmarks: plant but plant.cli",
    "plant.cli: plant",
    "plant.later: plant.spec",
]
"""

GOOD = {
    "__init__": "",
    "errors": "",
    "spec": "from plant import errors",
    "models/__init__": "import plant.spec",
    "models/actor": "from plant.models import critic",
    "models/critic": "import plant",
    "benchmarks": "import plant.models.actor",
    "cli": "import plant.benchmarks, plant.spec",
}


def check(folder: Path, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    for name, text in files.items():
        path = folder / "plant" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (folder / "pyproject.toml").write_text(CONTRACT)
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]\n" + (
        "from importlinter.cli import lint_imports\nsys.exit(lint_imports(no_cache=True))"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_allowed_directions_are_kept(tmp_path: Path) -> None:
    done = check(tmp_path, GOOD)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


def test_every_wrong_direction_is_named(tmp_path: Path) -> None:
    wrong = {
        "spec": "\n\nimport plant.models",
        "benchmarks": "from plant import cli",
        "stray": "",
        "models/losses": "import plant.models.actor",
    }
    done = check(tmp_path, GOOD | wrong)
    assert done.returncode == 1
    assert "plant.spec (l.3) must not import plant.models" in done.stdout
    assert "plant.benchmarks (l.1) must not import plant.cli" in done.stdout
    assert "plant.models.losses (l.1) must not import plant.models.actor" in done.stdout
    assert "plant.stray is in no room" in done.stdout


@pytest.mark.parametrize(
    ("lines", "everywhere"),
    [
        (["a.spec"], []),
        (["a.spec:", "a.spec: "], []),
        (["a.spec: a.modles", "a.models:"], []),
        (["a.spec:"], ["a.errors"]),
        (["a.spec: a but a.cil"], []),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(lines: list[str], everywhere: list[str]) -> None:
    with pytest.raises(ValueError, match=r"must read|no line says"):
        parse_rooms(lines, everywhere)
