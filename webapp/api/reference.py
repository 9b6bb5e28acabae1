"""The document of the API as a page shows it: areas, operations, fields, and calls to copy."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

_DEEPEST = 4
_LONGEST = 60
_METHODS = ("get", "post", "put", "patch", "delete")
_NO_NUL = "^[^\\x00]*$"
_PLACES = {"path": 0, "query": 1, "header": 2}
_TEXTS = {
    "uuid": "0199c7a4-6b1e-7c3a-9d2f-5e8a4b7c1d20",
    "date-time": "2027-01-04T12:00:00Z",
    "date": "2027-01-04",
    "uri": "https://example.com/",
    "email": "person@example.com",
}
ADDRESS = "{address}"
"""In a call: the address of the installation."""


@dataclass(frozen=True, slots=True)
class Field:
    """A parameter or a member. `name` has dots for what is inside of something, `[]` for each of a list."""

    name: str
    kind: str
    required: bool
    words: str
    example: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operation may answer."""

    status: str
    words: str
    kind: str
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `call` is for a shell, with `ADDRESS` in it."""

    id: str
    method: str
    path: str
    summary: str
    words: str
    scopes: tuple[str, ...]
    role: str
    parameters: tuple[Field, ...]
    body: tuple[Field, ...]
    body_kind: str
    answers: tuple[Answer, ...]
    call: str

    def fits(self, words: list[str], area: str) -> bool:
        """Whether each of some words is in it."""
        text = f"{self.method} {self.path} {self.summary} {self.words} {self.id} {' '.join(self.scopes)} {area}".lower()
        return all(word in text for word in words)


@dataclass(frozen=True, slots=True)
class Area:
    """Operations that belong together."""

    title: str
    anchor: str
    description: str
    operations: tuple[Operation, ...]

    def fitting(self, query: str) -> Area | None:
        """The area with the operations that all words of a query are in; None if there are none."""
        words = query.lower().split()
        found = tuple(operation for operation in self.operations if operation.fits(words, self.title))
        return replace(self, operations=found) if found else None


def areas(spec: Mapping[str, Any]) -> tuple[Area, ...]:
    """What a document describes, in the order of its tags and paths."""
    reader = _Reader(spec)
    found: dict[str, list[Operation]] = {tag["name"]: [] for tag in spec.get("tags", ())}
    for path, item in spec["paths"].items():
        for method, given in item.items():
            if method in _METHODS:
                found.setdefault((given.get("tags") or ["Other"])[0], []).append(reader.operation(method, path, given))
    words = {tag["name"]: tag.get("description", "") for tag in spec.get("tags", ())}
    return tuple(
        Area(title, re.sub(r"\W+", "-", title.lower()), words.get(title, ""), tuple(operations))
        for title, operations in found.items()
        if operations
    )


class _Reader:
    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._schemas: Mapping[str, Any] = spec.get("components", {}).get("schemas", {})

    def operation(self, method: str, path: str, given: Mapping[str, Any]) -> Operation:
        parameters = sorted(given.get("parameters", ()), key=lambda each: _PLACES.get(each["in"], 3))
        body_kind, body = self._content(given.get("requestBody", {}))
        answers = tuple(self._answer(status, response) for status, response in given["responses"].items())
        return Operation(
            id=given["operationId"],
            method=method.upper(),
            path=path,
            summary=given.get("summary", ""),
            words=given.get("description", ""),
            scopes=tuple(given.get("x-scopes", ())),
            role=given.get("x-role", "member"),
            parameters=tuple(self._parameter(each) for each in parameters),
            body=tuple(self._fields(body, self._sample(body))),
            body_kind=body_kind,
            answers=tuple(sorted(answers, key=lambda each: each.status)),
            call=self._call(method, path, parameters, body_kind, body),
        )

    def _content(self, given: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        for kind, medium in (given.get("content") or {}).items():
            schema = dict(medium.get("schema") or {})
            if medium.get("example") is not None:
                schema = dict(self._resolved(schema)) | {"example": medium["example"]}
            return kind, schema
        return "", {}

    def _answer(self, status: str, given: Mapping[str, Any]) -> Answer:
        kind, schema = self._content(given)
        fields = () if kind == "application/problem+json" else tuple(self._fields(schema, None))
        return Answer(status, given.get("description", ""), kind, fields)

    def _parameter(self, given: Mapping[str, Any]) -> Field:
        schema = given.get("schema", {})
        example = given.get("example", schema.get("example"))
        shown = "" if example is None else _short(example)
        words = given.get("description") or schema.get("description", "")
        return Field(given["name"], self.kind(schema), bool(given.get("required")), words, shown, given["in"])

    # -- schemas ---------------------------------------------------------------------------------------------------------
    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """A schema behind its references, and without null beside one other."""
        for _ in range(10):
            if "$ref" in schema:
                more = {name: value for name, value in schema.items() if name != "$ref"}
                schema = dict(self._schemas.get(schema["$ref"].rpartition("/")[2], {})) | more
                continue
            options = [each for each in schema.get("anyOf") or schema.get("allOf") or () if each.get("type") != "null"]
            if len(options) != 1:
                break
            more = {name: value for name, value in schema.items() if name not in ("anyOf", "allOf")}
            schema = dict(options[0]) | more
        return schema

    def kind(self, schema: Mapping[str, Any]) -> str:
        """What a value is, in words: `whole number, 1 to 100`."""
        null = any(each.get("type") == "null" for each in schema.get("anyOf") or ())
        found = self._resolved(schema)
        options = [each for each in found.get("anyOf") or found.get("oneOf") or () if each.get("type") != "null"]
        words = " or ".join(dict.fromkeys(map(self.kind, options))) if options else self._plain_kind(found)
        if found.get("default") not in (None, "", [], {}):
            words += f"; otherwise {_short(found['default'])}"
        return f"{words}, or null" if null else words

    def _plain_kind(self, found: Mapping[str, Any]) -> str:
        if found.get("enum"):
            return "one of " + ", ".join(_short(each) for each in found["enum"])
        if "const" in found:
            return _short(found["const"])
        kind = found.get("type")
        if kind == "array":
            return f"list of {self.kind(found.get('items', {}))}{_bounds(found, 'minItems', 'maxItems', 'of them')}"
        if kind in ("integer", "number"):
            return ("whole number" if kind == "integer" else "number") + _range(found)
        if kind == "string":
            words = {"uuid": "id", "date-time": "moment", "binary": "file", "date": "date"}.get(found.get("format", ""), "text")
            pattern = found.get("pattern", _NO_NUL)
            return (
                words + _bounds(found, "minLength", "maxLength", "characters") + ("" if pattern == _NO_NUL else f", {pattern}")
            )
        return {"boolean": "true or false", "object": "object", "null": "null"}.get(str(kind), "any value")

    def _fields(self, schema: Mapping[str, Any], sample: Any, before: str = "", depth: int = 0) -> Iterator[Field]:
        found = self._resolved(schema)
        if found.get("type") == "array":
            inner = sample[0] if isinstance(sample, list) and sample else None
            yield from self._fields(found.get("items", {}), inner, f"{before}[]", depth)
            return
        required = set(found.get("required", ()))
        for name, given in (found.get("properties") or {}).items():
            whole = f"{before}.{name}" if before else name
            inner = sample.get(name) if isinstance(sample, dict) else None
            words = given.get("description") or self._resolved(given).get("description", "")
            shown = "" if inner in (None, "", [], {}) or isinstance(inner, dict | list) else _short(inner)
            yield Field(whole, self.kind(given), name in required, words, shown)
            if depth < _DEEPEST:
                yield from self._fields(given, inner, whole, depth + 1)

    def _sample(self, schema: Mapping[str, Any], depth: int = 0) -> Any:
        """An example of a value: the one that is given, else one that fits."""
        found = self._resolved(schema)
        if "example" in found:
            return found["example"]
        if found.get("examples"):
            return found["examples"][0]
        if "const" in found or found.get("enum"):
            return found.get("const", (found.get("enum") or [None])[0])
        if found.get("default") is not None:
            return found["default"]
        options = found.get("anyOf") or found.get("oneOf")
        if options:
            return self._sample(options[0], depth + 1)
        kind = found.get("type")
        if kind == "object" or "properties" in found:
            required = set(found.get("required", ()))
            members = (found.get("properties") or {}).items() if depth < _DEEPEST else ()
            return {name: self._sample(given, depth + 1) for name, given in members if name in required}
        if kind == "array":
            return [self._sample(found.get("items", {}), depth + 1)] if found.get("minItems") else []
        if kind in ("integer", "number"):
            return int(found.get("minimum", found.get("exclusiveMinimum", 0)) or 1)
        if kind == "boolean":
            return True
        return _TEXTS.get(found.get("format", ""), "text") if kind == "string" else None

    # -- calls -----------------------------------------------------------------------------------------------------------
    def _call(
        self, method: str, path: str, parameters: list[Mapping[str, Any]], body_kind: str, body: Mapping[str, Any]
    ) -> str:
        names = {each["name"]: each for each in parameters}

        def filled(found: re.Match[str]) -> str:
            given = names.get(found[1], {})
            example = given.get("example", given.get("schema", {}).get("example"))
            return str(example).replace("+", "%2B") if example is not None else f"${found[1].upper()}"

        query = [each for each in parameters if each["in"] == "query" and each.get("required")]
        asked = "&".join(f"{each['name']}={self._sample(each.get('schema', {}))}" for each in query)
        address = ADDRESS + re.sub(r"\{(\w+)\}", filled, path) + (f"?{asked}" if asked else "")
        lines = [f'curl{"" if method == "get" else f" -X {method.upper()}"} "{address}"', '-H "Authorization: Bearer $TOKEN"']
        if "Idempotency-Key" in names:
            lines.append('-H "Idempotency-Key: $(uuidgen)"')
        sample = self._sample(body) if body else None
        if body_kind == "application/json":
            lines.append("-H 'Content-Type: application/json'")
            lines.append(f"-d {shlex.quote(json.dumps(sample, ensure_ascii=False))}")
        elif body_kind == "multipart/form-data":
            lines += self._form(body, sample)
        return " \\\n  ".join(lines)

    def _form(self, body: Mapping[str, Any], sample: Any) -> Iterator[str]:
        found = self._resolved(body)
        required = set(found.get("required", ()))
        for name, given in (found.get("properties") or {}).items():
            if self._resolved(given).get("format") == "binary":
                yield f"-F {name}=@file"
            elif name in required or (isinstance(sample, dict) and name in sample):
                value = sample.get(name) if isinstance(sample, dict) else self._sample(given)
                yield f"-F {shlex.quote(f'{name}={value}')}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _range(found: Mapping[str, Any]) -> str:
    low, high = found.get("minimum"), found.get("maximum")
    above, below = found.get("exclusiveMinimum"), found.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f", {_number(low)} to {_number(high)}"
    words = [
        f"{word} {_number(value)}"
        for word, value in (("at least", low), ("at most", high), ("more than", above), ("less than", below))
        if value is not None
    ]
    return f", {', '.join(words)}" if words else ""


def _bounds(found: Mapping[str, Any], least: str, most: str, unit: str) -> str:
    low, high = found.get(least), found.get(most)
    if low and high:
        return f", {_number(low)} {unit}" if low == high else f", {_number(low)} to {_number(high)} {unit}"
    if high is not None:
        return f", at most {_number(high)} {unit}"
    return f", at least {_number(low)} {unit}" if low else ""


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"
