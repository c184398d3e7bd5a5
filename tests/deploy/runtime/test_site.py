"""The site file: its example, and mistakes that are named with file, line and field."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

import deploy.runtime.site as site_module
from controlkit.errors import ConfigError
from controlkit.spec import PlantSpec
from deploy.runtime.operators import new_token, token_hash
from deploy.runtime.site import AuditSite, Site
from tests.deploy.plants import plant_description

ANNA = token_hash("anna's")
SECURITY = {"certificate": "c/client.der", "private_key": "c/client.pem", "trusted_server_certificate": "/etc/s.der"}


def written(folder: Path, content: Any) -> Path:
    path = folder / "site.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_the_example_of_the_module_is_a_site_file(tmp_path: Path) -> None:
    example = inspect.getdoc(site_module)
    assert example is not None
    text = example.split("\n\n", 1)[1].replace("sha256:...", new_token()[1])
    site = Site.load(written(tmp_path, text))
    assert site.nodes == {"temperature": "ns=4;s=TIC101.PV"}
    assert site.handshake == {"auto": "ns=4;s=CK.AUTO", "lease": None}
    assert site.security is not None
    assert site.security.trusted_server_certificate == tmp_path / "certificates/server.der"
    assert site.security.password_file == tmp_path / "edge.password"
    assert set(site.operators) == {"anna"}


def test_nothing_needs_to_be_said(tmp_path: Path) -> None:
    assert Site.load(written(tmp_path, "{}")) == Site()
    site = Site()
    assert (site.security, site.operators, site.time, site.lease_periods) == (None, {}, "source", 5)


def test_paths_are_relative_to_the_file_and_not_to_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plant").mkdir()
    written(tmp_path / "plant", {"security": SECURITY})
    monkeypatch.chdir(tmp_path)
    security = Site.load(Path("plant/site.yaml")).security
    assert security is not None
    assert security.certificate == tmp_path / "plant/c/client.der"
    assert security.private_key == tmp_path / "plant/c/client.pem"
    assert security.trusted_server_certificate == Path("/etc/s.der")
    assert (security.password_file, security.user_certificate) == (None, None)


@pytest.mark.parametrize(
    ("content", "field", "message"),
    [
        ({"nods": {}}, "nods", "unknown key. Did you mean 'nodes'"),
        ({"nodes": {"level": 4}}, "nodes.level", "should be a valid string, found 4"),
        ({"nodes": ["level"]}, "nodes", "should be a valid dictionary"),
        ({"handshake": {"aut": "ns=4;s=A"}}, "handshake", "'aut' is no part of the handshake; did you mean 'auto'?"),
        ({"handshake": {"advice": "ns=4;s=A"}}, "handshake", "'advice' is null"),
        ({"time": "plant"}, "time", "'plant' is not a valid value"),
        ({"security": {}}, "security.certificate", "is missing"),
        ({"security": SECURITY | {"policy": "None"}}, "security.policy", "'None' is not a valid value"),
        ({"security": SECURITY | {"password": "x"}}, "security.password", "unknown key"),
        ({"security": SECURITY | {"user": "edge"}}, "security", "'user' and 'password_file' go together"),
        ({"operators": {"anna": "secret"}}, "operators", "'anna' needs the hash that --new-token printed"),
        ({"operators": {"anna": ANNA.upper()}}, "operators", "'anna' needs the hash"),
        ({"operators": {"anna": ANNA + "\n"}}, "operators", "'anna' needs the hash"),
        ({"operators": {"anna": ANNA[:-1]}}, "operators", "'anna' needs the hash"),
        ({"operators": {"anna": ANNA, "bob": ANNA}}, "operators", "two operators share a token"),
        ({"operators": {"": ANNA}}, "operators", "'' is no name"),
        ({"operators": {"an\x1b[2Jna": ANNA}}, "operators", "is no name"),
        ({"operators": {"a" * 41: ANNA}}, "operators", "is no name"),
        ({"audit": {"max_mb": 9}}, "audit.max_mb", "greater than or equal to 10"),
        ({"audit": {"max_mb": 100, "file_mb": 51}}, "audit", "must hold two files"),
        ({"audit": {"max_mb": "much"}}, "audit.max_mb", "valid number"),
        ({"status_port": 65536}, "status_port", "less than or equal to 65535"),
        ({"status_port": 80.5}, "status_port", "valid integer"),
        ({"lease_periods": 2}, "lease_periods", "greater than or equal to 3"),
    ],
)
def test_a_mistake_is_named_with_file_and_field(tmp_path: Path, content: Any, field: str, message: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ConfigError) as refused:
        Site.load(path)
    told = str(refused.value)
    assert told.startswith(str(path))
    assert f": {field}: " in told
    assert message.lower() in told.lower()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: {", "not valid YAML"), ("nodes: {}\nnodes: {}", "nodes"), ("- 1", "must hold a mapping"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"), ("\x00", "not valid YAML"),
    ],
)  # fmt: skip
def test_what_is_no_site_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        Site.load(written(tmp_path, text))
    assert str(tmp_path / "site.yaml") in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        Site.load(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", ["anna", "Jörg", "anna.b-c_1@site", "a" * 40])
def test_names_of_operators(tmp_path: Path, name: str) -> None:
    assert Site.load(written(tmp_path, {"operators": {name: ANNA}})).operators == {name: ANNA}


def test_a_node_of_a_tag_that_the_plant_does_not_have(tmp_path: Path) -> None:
    spec = PlantSpec.from_dict(plant_description())
    Site(nodes={"level": "ns=4;s=L", "valve": "ns=4;s=V"}).require_tags(spec, "site.yaml")
    with pytest.raises(ConfigError, match=r"site\.yaml, nodes: the plant has no tag 'lvel'\. did you mean 'level'\?"):
        Site(nodes={"lvel": "ns=4;s=L"}).require_tags(spec, "site.yaml")


def test_the_audit_log_holds_two_files_at_least() -> None:
    assert AuditSite(max_mb=128, file_mb=64).file_mb == 64
