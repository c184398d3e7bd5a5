"""Passwords in what a user names as a source: no message says them back."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlkit.cli import main
from controlkit.errors import DataError
from controlkit.ingest.sources.find import find
from controlkit.ingest.sources.sql_address import parse, redacted

SECRETS = [
    "postgresql://u:s3cret@h/db",
    "postgresql:/u:s3cret@h",
    "postgresql:///u:s3cret@h/db?table=t",
    "postgresql:u:s3cret@h?table=t",
    "postgresql://u:s3cret?table=t",
    "postgresql://u:1s3cret",
    "postgresql://u:1/s3cret@h/db?table=t",
    "POSTGRES://u:s3cret@h/db?sslpassword=s3cret",
    "mysql://u:s3cret@h",
    "mysql://h/db?password=s3cret",
    "s3://k:s3cret@b",
    "s3://b/key?secret_key=s3cret",
    "odbc:Driver=x;PWD={a}}s3cret};",
    "odbc:Driver=x;PWD={a}}s3cret};Server=h?table=t&query=x",
    "odbc:Driver=x;pwd = s3cret",
    "odbc:PWD={s3cret;Server=h",
]


@pytest.mark.parametrize("address", SECRETS)
def test_no_error_shows_a_password(address, spec, capsys):
    """Neither the reading nor a proposal says it, whatever is wrong with the address."""
    assert "s3cret" not in redacted(address)
    with pytest.raises(DataError) as caught:
        list(find([address], spec))
    assert "s3cret" not in str(caught.value)
    with pytest.raises(DataError) as caught:
        list(find([Path(address)], spec))
    assert "s3cret" not in str(caught.value)
    with pytest.raises(SystemExit):
        main(["ingest", "--check", address])
    told = capsys.readouterr()
    assert "a plant file cannot be proposed from a database" in " ".join(told.err.split())
    assert "s3cret" not in told.out + told.err


@pytest.mark.parametrize("address", SECRETS)
@pytest.mark.parametrize(
    "command",
    [
        ["x.npz", "ADDRESS", "--check"],
        ["refrigerator", "x.npz", "ADDRESS", "--out", "out"],
        ["refrigerator", "ADDRESS", "x.npz", "--out", "out"],
        ["refrigerator", "ADDRESS", "--out", "out"],
        ["refrigerator", "ADDRESS", "--check"],
        ["ADDRESS", "x.csv", "--out", "out"],
    ],
)
def test_no_command_shows_a_password(command, address, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["ingest", *(address if word == "ADDRESS" else word for word in command)])
    told = capsys.readouterr()
    assert "error: " in told.err
    assert "s3cret" not in told.out + told.err


def test_a_password_in_braces_is_hidden_as_the_driver_says_it():
    found = parse("odbc:Driver=x;PWD={a}}s3cret};Server=h?table=t")
    assert found.shown == "odbc:Driver=x;PWD=***;Server=h?table=t"
    assert "s3cret" not in found.hidden("refused a}s3cret and {a}}s3cret}")


@pytest.mark.parametrize("path", ["logs/a:b@c.csv", "C:\\logs\\u:x@y.csv", "/data/x.csv", "minari:D4RL/pen"])
def test_a_path_is_shown_as_it_is(path):
    assert redacted(path) == path
