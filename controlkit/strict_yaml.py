"""YAML read strictly: no duplicate keys, no unknown fields, and every error names the file, the line and the cure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from controlkit.errors import ControlkitError, nearest

Model = TypeVar("Model", bound=BaseModel)
_PLACE = re.compile(r"([a-z_]+(?:\.[\w]+)+): ")
# YAML 1.1 takes 1e-3 for a word; an engineer means a number.
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+\Z")
_MERGE = "tag:yaml.org,2002:merge"


class Strict(BaseModel):
    """Base of every model that a user writes: unknown fields are errors, values are immutable, NaN is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys silently; a plant file with two tags of one name must not load."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue  # `<<: *base` is no key of its own and may come more than once
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (list, dict, set)):
                raise yaml.MarkedYAMLError(problem="a key must be a name", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{key}' appears twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as problem:
            # A date such as 2024-13-01: PyYAML lets Python's own error through.
            raise yaml.MarkedYAMLError(problem=str(problem), problem_mark=node.start_mark) from None


_UniqueKeyLoader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def read_yaml(path: Path, error: type[ControlkitError]) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        error: the file is missing, is not YAML, repeats a key, or holds something else than a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error("no such file", where=str(path), cure="Check the path.") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"cannot be read ({problem})", where=str(path)) from None
    try:
        content = yaml.load(text, _UniqueKeyLoader)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise error(f"not valid YAML: {problem.problem}", where=where, cure="Mend that line.") from None
    except yaml.YAMLError as problem:
        # Control characters and the like: no mark, but the reader's own position.
        reason = " ".join(str(problem).split())
        raise error(f"not valid YAML: {reason}", where=str(path), cure="Mend that place.") from None
    except RecursionError:
        raise error("not usable YAML: nested too deeply", where=str(path), cure="Write it flatter.") from None
    if not isinstance(content, dict):
        raise error("must hold a mapping of fields", where=str(path), cure="See configs/ for examples.")
    return content


def validate(model: type[Model], content: dict[str, Any], path: Path | None, error: type[ControlkitError]) -> Model:
    """`content` as `model`; a mistake is reported with its file, line, field and the nearest valid name.

    Raises:
        error: the first mistake in full, and how many more there are.
    """
    try:
        return model.model_validate(content)
    except ValidationError as problem:
        # A misspelled key is also a missing one: the misspelling says more.
        details = sorted(problem.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
        first = details[0]
        location = [part for part in first["loc"] if not _is_union_label(part, content, first["loc"])]
        if not location and (prefix := _PLACE.match(first["msg"].removeprefix("Value error, "))):
            # A check across fields names its own place in front of the message.
            location = [int(part) if part.isdigit() else part for part in prefix[1].split(".")]
            first["msg"] = first["msg"].removeprefix("Value error, ")[prefix.end() :]
        field = ".".join(str(part) for part in location) or "the file as a whole"
        line = _line_of(path, location)
        source = f"{path}, line {line}" if path and line else str(path or model.__name__)
        what, cure = _explain(first, model, location)
        rest = len(details) - 1
        more = f" ({rest} more mistake{'s' if rest > 1 else ''} after this one)" if rest else ""
        raise error(f"{field}: {what}{more}", where=source, cure=cure) from None


def _explain(detail: Any, model: type[BaseModel], location: Sequence[Any]) -> tuple[str, str]:
    if detail["type"] == "extra_forbidden":
        valid = _fields_at(model, detail["loc"][:-1])
        return "unknown key", _sentence(nearest(str(location[-1]), valid))
    if detail["type"] == "missing":
        return "is missing", "Add it."
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] in ("literal_error", "enum"):
        expected = [name.strip(" '") for name in detail["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f"'{detail['input']}' is not a valid value", _sentence(nearest(str(detail["input"]), expected))
    if detail["type"] == "union_tag_invalid":
        expected = [name.strip(" '") for name in detail["ctx"]["expected_tags"].split(",")]
        return f"unknown kind '{detail['ctx']['tag']}'", _sentence(nearest(str(detail["ctx"]["tag"]), expected))
    if detail["type"] == "union_tag_not_found":
        return "'kind' is missing", "Add it."
    if detail["type"] != "value_error":
        shown = repr(detail["input"])
        message = f"{message[0].lower()}{message[1:]}, found {shown if len(shown) < 60 else shown[:57] + '...'}"
    return message, ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _fields_at(model: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    """Names of the fields that are valid where `loc` points, through dicts, lists and tagged unions."""
    candidates: list[type[BaseModel]] = [model]
    for part in loc:
        following: list[type[BaseModel]] = []
        for candidate in candidates:
            field = candidate.model_fields.get(str(part))
            if field is not None:
                following += _models_in(field.annotation)
        # A key of a dict, an index of a list or the label of a union leads to the same models again; a union's
        # label narrows them to the one whose `kind` it names.
        narrowed = [m for m in candidates if part in _kinds(m)]
        candidates = following or narrowed or candidates
    return [name for candidate in candidates for name in candidate.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found: list[type[BaseModel]] = []
    for argument in getattr(annotation, "__args__", ()):
        found += _models_in(argument)
    return found


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return tuple(getattr(field.annotation, "__args__", ())) if field else ()


def _is_union_label(part: Any, content: Any, loc: Sequence[Any]) -> bool:
    """Pydantic puts the chosen member of a union into the location; it is no key that the user wrote."""
    node = content
    for step in loc:
        if isinstance(node, dict) and step in node:
            node = node[step]
        elif isinstance(node, list) and isinstance(step, int) and step < len(node):
            node = node[step]
        elif step == part:
            return isinstance(node, dict) and node.get("kind") == part
    return False


def _line_of(path: Path | None, location: Sequence[Any]) -> int | None:
    """The 1-based line of the deepest part of `location` that exists in the file."""
    if path is None:
        return None
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, yaml.YAMLError):
        return None
    line: int | None = None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            match = [(key, value) for key, value in node.value if key.value == str(part)]
            if not match:
                break
            line, node = match[0][0].start_mark.line + 1, match[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
