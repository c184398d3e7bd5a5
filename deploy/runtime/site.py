"""The site file: what an edge box knows of its plant's server and its people; YAML, strict, no secrets in it.

nodes: {temperature: "ns=4;s=TIC101.PV"}      # overrides of the plant file
handshake: {auto: "ns=4;s=CK.AUTO", lease: null}   # null: the plant has none
security:
  certificate: certificates/client.der
  private_key: certificates/client.key.pem
  trusted_server_certificate: certificates/server.der
  user: edge
  password_file: edge.password
operators: {anna: "sha256:..."}
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from controlkit.errors import ConfigError, nearest
from controlkit.opcua_nodes import HANDSHAKE
from controlkit.spec import PlantSpec
from controlkit.strict_yaml import Strict, read_yaml, validate
from deploy.runtime.opcua_security import Security
from deploy.runtime.operators import HASH

# A name stands in the audit log, on the status page and in terminals.
NAME = re.compile(r"[^\W\d_][\w.@-]{0,39}")


class AuditSite(Strict):
    """Size of the audit log, in megabytes: of all of it, and of one file."""

    max_mb: Annotated[float, Field(ge=10, le=1_000_000)] = 2048
    file_mb: Annotated[float, Field(ge=1, le=10_000)] = 64

    @model_validator(mode="after")
    def _order(self) -> AuditSite:
        if self.file_mb * 2 > self.max_mb:
            raise ValueError("max_mb must hold two files of file_mb at least")
        return self


class Site(Strict):
    """See the module.

    Attributes:
        nodes: OPC UA node of a tag, where it is not the plant file's.
        handshake: node of `auto`, `heartbeat_plant`, `heartbeat_controller`, `lease` or `advice.ACTION`; null where the
            plant has none (`advice`: none at all).
        time: whether the age of a value is told by its source's or the server's time stamp.
        security: of the connection; without it only `--insecure` connects.
        operators: who may raise the mode: name -> hash of the token.
        audit: sizes.
        status_port: of the status page on loopback; 0 takes any free one.
        lease_periods: periods without a renewal after which another controller's lease has run out.
    """

    nodes: dict[str, str] = Field(default_factory=dict)
    handshake: dict[str, str | None] = Field(default_factory=dict)
    time: Literal["source", "server"] = "source"
    security: Security | None = None
    operators: dict[str, str] = Field(default_factory=dict)
    audit: AuditSite = AuditSite()
    status_port: Annotated[int, Field(ge=0, le=65535)] = 8787
    lease_periods: Annotated[int, Field(ge=3, le=1000)] = 5

    @field_validator("handshake")
    @classmethod
    def _known(cls, handshake: dict[str, str | None]) -> dict[str, str | None]:
        parts = (*HANDSHAKE, "advice")
        for name, node in handshake.items():
            if name not in parts and not name.startswith("advice."):
                raise ValueError(f"'{name}' is no part of the handshake; {nearest(name, parts)}")
            if name == "advice" and node is not None:
                raise ValueError("'advice' is null (none), or 'advice.ACTION' names a node for one action")
        return handshake

    @field_validator("operators")
    @classmethod
    def _hashed(cls, operators: dict[str, str]) -> dict[str, str]:
        for name, stored in operators.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"'{name[:80]}' is no name: up to 40 letters, digits and . _ - @, a letter first")
            if not HASH.fullmatch(stored):
                raise ValueError(f"'{name}' needs the hash that --new-token printed, sha256:...")
        if len(set(operators.values())) < len(operators):
            raise ValueError("two operators share a token: make one for each with --new-token")
        return operators

    @classmethod
    def load(cls, path: Path) -> Site:
        """The site file; paths in it are made absolute.

        Raises:
            ConfigError: it cannot be right.
        """
        site = validate(cls, read_yaml(path, ConfigError), path, ConfigError)
        if site.security is None:
            return site
        folder = path.absolute().parent
        absolute = {
            name: folder / place for name in type(site.security).model_fields
            if isinstance(place := getattr(site.security, name), Path)
        }  # fmt: skip
        return site.model_copy(update={"security": site.security.model_copy(update=absolute)})

    def require_tags(self, spec: PlantSpec, where: str) -> None:
        """Checks that every node belongs to a tag of the plant.

        Raises:
            ConfigError: a tag that the plant does not have.
        """
        for name in self.nodes:
            if name not in spec.tags:
                raise ConfigError(
                    f"the plant has no tag '{name}'", where=f"{where}, nodes", cure=nearest(name, spec.tags)
                )
