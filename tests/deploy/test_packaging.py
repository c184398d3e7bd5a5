"""What the service, the container and the page on the edge call exists, and the service arms nothing by itself."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import pytest
import typer

from controlkit.cli import app

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "packaging" / "controlkit@.service"
CONTAINER = ROOT / "deploy" / "packaging" / "Containerfile"
PAGES = [ROOT / "docs" / name for name in ("edge.md", "shadow.md", "detection.md", "bundle.md")]


def verbs() -> dict[str, set[str]]:
    """The options of every verb."""
    group = typer.main.get_command(app)
    known: dict[str, set[str]] = {}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        known[name] = {option for parameter in command.params for option in parameter.opts}
    return known


def service() -> configparser.ConfigParser:
    """The unit; a key that may come twice comes once in ours."""
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(UNIT.read_text().replace("\\\n", " "))
    return unit


def check(words: list[str]) -> None:
    known = verbs()
    assert words[0] in known, words
    used = {word.split("=")[0] for word in words if word.startswith("--")}
    assert used <= known[words[0]] | {"--help"}, words


def test_the_service_calls_what_exists_and_starts_in_shadow() -> None:
    words = shlex.split(service()["Service"]["ExecStart"])
    assert words[0].endswith("/controlkit")
    check(words[1:])
    assert "--mode" not in words
    assert "--insecure" not in words


def test_the_service_has_no_rights() -> None:
    unit = service()["Service"]
    assert (unit["NoNewPrivileges"], unit["ProtectSystem"], unit["CapabilityBoundingSet"]) == ("yes", "strict", "")
    assert unit["User"] == "controlkit"
    assert unit["StateDirectoryMode"] == "0700"


def test_the_container_runs_without_rights_and_calls_what_exists() -> None:
    text = CONTAINER.read_text()
    assert re.search(r"^USER controlkit$", text, flags=re.MULTILINE)
    assert '".[opcua]"' in text
    call = re.search(r"controlkit-edge \\\n((?:#.*\n)+)", text)
    assert call is not None
    check(shlex.split(re.sub(r"^#|\\$", "", call[1], flags=re.MULTILINE).replace("\n", " ")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_exist(page: Path) -> None:
    found = re.findall(r"^    (controlkit .*)$", page.read_text(), flags=re.MULTILINE)
    found += re.findall(r"`(controlkit [a-z-]+(?: [A-Z-][^`]*)?)`", page.read_text())
    for line in found:
        words = shlex.split(line, comments=True)[1:]
        if words and words[0] != "VERB":
            check(words)
