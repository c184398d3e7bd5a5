"""An import-linter contract that says, room by room, which other rooms may be imported.

A room is a module or a package of ours. A line of the table, `controlkit.dataset: controlkit.spec controlkit.layout`,
reads: the dataset room imports these and nothing else of ours; what follows `but` is taken away again. Rooms of the
table that do not exist yet are skipped; a module that no line covers breaks the contract, so a new room cannot land
without its directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


@dataclass(frozen=True)
class Rooms:
    """The table of directions.

    Args:
        allowed: for every room, the modules or packages it may import.
        except_for: for every room, what is taken away from these.
        everywhere: modules that any room may import.
    """

    allowed: dict[str, frozenset[str]]
    except_for: dict[str, frozenset[str]]
    everywhere: frozenset[str]

    def room_of(self, module: str) -> str | None:
        """The room that holds a module: the longest name in the table that covers it."""
        return max((room for room in self.allowed if _covers(room, module)), key=len, default=None)

    def permits(self, importer: str, imported: str) -> bool:
        """Whether one module may import another; a module outside every room may import nothing of ours."""
        room = self.room_of(importer)
        if room is None:
            return False
        if room == self.room_of(imported):
            return True
        if any(_covers(name, imported) for name in self.except_for[room]):
            return False
        return any(_covers(name, imported) for name in self.allowed[room] | self.everywhere)


def parse_rooms(lines: list[str], everywhere: list[str]) -> Rooms:
    """Reads lines `room: other other` or `room: other other but another`.

    Raises:
        ValueError: a line without a colon, a room listed twice, or a name that no line has.
    """
    allowed: dict[str, frozenset[str]] = {}
    except_for: dict[str, frozenset[str]] = {}
    for line in lines:
        room, colon, others = line.partition(":")
        room = room.strip()
        if not colon or room in allowed:
            raise ValueError(f"{line!r} must read 'room: other other', with every room once")
        some, _, unwanted = others.partition(" but ")
        allowed[room], except_for[room] = frozenset(some.split()), frozenset(unwanted.split())
    rooms = Rooms(allowed, except_for, frozenset(everywhere))
    for name in chain(everywhere, *allowed.values(), *except_for.values()):
        if rooms.room_of(name) is None and not any(_covers(name, room) for room in allowed):
            raise ValueError(f"{name!r} is imported in the table, but no line says what it imports")
    return rooms


class RoomsContract(Contract):
    """Checks every direct import between our modules against the table (`rooms`, `everywhere`)."""

    type_name = "rooms"

    rooms = fields.ListField(subfield=fields.StringField())
    everywhere = fields.ListField(subfield=fields.StringField(), required=False, default=[])

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Looks at all direct imports; the roots (`controlkit`, `deploy`) may be imported by all and import nothing."""
        table = parse_rooms(self._names("rooms"), self._names("everywhere"))
        roots = set(self.session_options["root_packages"])
        ours = sorted(module for module in graph.modules if module.split(".")[0] in roots)
        homeless = [module for module in ours if table.room_of(module) is None and module not in roots]
        forbidden = [
            (importer, imported, graph.get_import_details(importer=importer, imported=imported)[0]["line_number"])
            for importer in ours
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if imported in ours and imported not in roots and not table.permits(importer, imported)
        ]
        return ContractCheck(
            kept=not homeless and not forbidden,
            metadata={"homeless": homeless, "forbidden": forbidden},
        )

    def _names(self, field: str) -> list[str]:
        # A field's declared type is the field; what it holds after parsing is a list of strings.
        return [str(name) for name in getattr(self, field)]

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Prints every forbidden import with its line, and every module that belongs to no room."""
        for importer, imported, line in check.metadata["forbidden"]:
            output.print_error(f"{importer} (l.{line}) must not import {imported}")
        for module in check.metadata["homeless"]:
            output.print_error(f"{module} is in no room: say in pyproject.toml what it may import")


def _covers(name: str, module: str) -> bool:
    return module == name or module.startswith(f"{name}.")
