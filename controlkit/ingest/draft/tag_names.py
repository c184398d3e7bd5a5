"""What a tag's name says: letters of ISA-5.1 (FIC-101, LCV_2), parameters of a loop (.PV .SP .OP .MODE), plain words.

ISA-5.1: the first letter is the measured variable, the letters after it what the instrument does (I indicate, T
transmit, C control, V valve, Z drive or position), the digits the loop. A name is a hint: control rooms have their own
habits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["measured", "setpoint", "command", "feedback", "mode", "alarm"]

# Parameter of a loop, the last part of the name.
_PARAMETERS: dict[str, Kind] = {
    **dict.fromkeys(("PV", "MEAS", "MEASUREMENT", "PVI", "PROCVAL"), "measured"),
    **dict.fromkeys(("SP", "SV", "SPT", "SETPOINT", "SETP", "TARGET", "SPACT", "REFERENCE"), "setpoint"),
    **dict.fromkeys(("OP", "OUT", "MV", "CO", "LMN", "CMD", "COMMAND", "OUTPUT", "MANIPULATED"), "command"),
    **dict.fromkeys(("MODE", "MODUS", "AUTO", "AUTOMAN", "CAS"), "mode"),
    **dict.fromkeys(("FB", "FEEDBACK", "POS", "ZT", "ZI", "READBACK", "RBK"), "feedback"),
    **dict.fromkeys(("ALM", "ALARM", "TRIP"), "alarm"),
}  # fmt: skip
# Words anywhere in a name; the first that fits.
_WORDS: tuple[tuple[str, Kind], ...] = (
    ("setpoint", "setpoint"), ("set_point", "setpoint"), ("target", "setpoint"), ("feedback", "feedback"),
    ("readback", "feedback"), ("alarm", "alarm"), ("command", "command"), ("_cmd", "command"), ("valve", "command"),
    ("damper", "command"), ("controller_output", "command"), ("actuator", "command"), ("temperature", "measured"),
    ("pressure", "measured"), ("level", "measured"), ("mode", "mode"),
)  # fmt: skip
# Parts that say nothing: DeltaV's and PI's names of a value.
_SILENT = {"CV", "VALUE", "VAL", "F_CV", "ACTUAL", "CURRENT", "DACA", "PID", "PIDA", "PID1", "PIDLOOP"}
_ISA = re.compile(
    r"(?<![A-Z0-9])(?P<variable>[A-Z])(?P<modifier>[DFQS])?(?P<does>[ITCRYEVSAHLZ]{1,3})"
    r"[-_. ]?(?P<loop>\d+[A-Z]{0,2}\d?)"
)

# Unit by the measured variable: what is usual, to be checked by the user.
_UNITS = {"T": "degC", "F": "m^3/h", "P": "bar", "L": "%", "S": "rpm", "W": "kg", "J": "kW", "I": "A", "E": "V"}
_UNIT_WORDS = (("temp", "degC"), ("pressure", "bar"), ("flow", "m^3/h"), ("level", "%"), ("speed", "rpm"))


@dataclass(frozen=True)
class NameHint:
    """What a name says.

    Attributes:
        kind: of the tag; None where it does not tell.
        loop: letters of the variable and number of the loop, such as `F101`, which its other parameters share.
        unit: the unit that is usual for the variable, where it is a measurement or setpoint.
        why: the reason in words.
    """

    kind: Kind | None = None
    loop: str | None = None
    unit: str | None = None
    why: str = ""


def hint_of(name: str) -> NameHint:
    """What a tag's name in the log says."""
    text = re.split(r"[\\|]", name)[-1].strip()
    parts = [part for part in re.split(r"[./:\s_]+", text.upper()) if part]
    spoken = [part for part in parts if part not in _SILENT]
    last = spoken[-1] if spoken else ""
    isa = _ISA.search(text.upper())
    loop = f"{isa['variable']}{isa['loop']}" if isa else None
    unit = _UNITS.get(isa["variable"]) if isa else None
    # "PV" alone in front of digits is a pressure valve, behind a dot the process variable.
    if len(spoken) > 1 and last in _PARAMETERS:
        kind = _PARAMETERS[last]
        physical = unit if kind in ("measured", "setpoint") else None
        return NameHint(kind, loop, physical, f"'{last}' at the end of the name")
    if isa is not None:
        return _by_letters(isa, loop, unit)
    lower = text.lower()
    found = next(((word, kind) for word, kind in _WORDS if word in lower), None)
    flow = next((unit for word, unit in _UNIT_WORDS if word in lower), None)
    if found is not None:
        word, kind = found
        return NameHint(kind, None, flow if kind in ("measured", "setpoint") else None, f"the word '{word}'")
    return NameHint(unit=flow)


def _by_letters(isa: re.Match[str], loop: str | None, unit: str | None) -> NameHint:
    does, variable = isa["does"], isa["variable"]
    letters = f"{variable}{isa['modifier'] or ''}{does}"
    if variable == "Z":
        return NameHint("feedback", loop, "%", f"'{letters}' is a position in ISA-5.1")
    if "A" in does or does in ("SH", "SL", "SHH", "SLL"):
        return NameHint("alarm", loop, None, f"'{letters}' is an alarm in ISA-5.1")
    if does.endswith(("V", "Z")) and "T" not in does:
        return NameHint("command", loop, None, f"'{letters}' is a valve or drive in ISA-5.1")
    if does == "S":
        return NameHint(None, loop, None, "")
    return NameHint("measured", loop, unit, f"'{letters}' is a measurement in ISA-5.1")
