"""The reference of the policy spec for people: every field, by section, from the JSON schema that specs are held to."""

from __future__ import annotations

import json
from typing import Any

from tasks.markdown import table
from tasks.spec.files import schema

HEAD = """# The policy spec

One YAML file a policy, `dags/policies/<name>.yaml`. `airlock policies validate` holds all of them against what is said
here and names every problem at once: file, field, what was expected, what came. A field that nobody knows is refused.
`airlock policies schema` prints the same as JSON schema, for editors that complete and check YAML, and this page with
`--markdown`.
"""
_LIMITS = (("exclusiveMinimum", "above"), ("minimum", "from"), ("exclusiveMaximum", "below"), ("maximum", "up to"))
_KINDS = {"integer": "whole number", "boolean": "true or false", "string": "text", "object": "mapping"}


def reference() -> str:
    """The page: Markdown, a table a section."""
    whole = schema()
    sections: list[str] = []
    _section("", whole, whole["$defs"], sections)
    return "\n".join([HEAD, *sections])


def _section(path: str, section: dict[str, Any], known: dict[str, Any], sections: list[str]) -> None:
    """This section's table, then those below it."""
    rows, below = [], []
    required = section.get("required", ())
    for name, field in section["properties"].items():
        inner, listed = _inner(field, known)
        if inner is not None:
            below.append((f"{path}{name}{'[]' if listed else ''}.", inner))
        default = "required" if name in required else _default(field)
        rows.append(
            (f"`{path}{name}`", _cell(_kind(field)), _cell(default), _cell(field.get("description") or _about(inner)))
        )
    title = path.removesuffix(".") or "name and sections"
    about = _about(section) if path else "What a file has at its top."
    sections.append(f"## {title}\n\n{about}\n\n{table(('field', 'value', 'default', 'meaning'), rows)}\n")
    for where, inner in below:
        _section(where, inner, known, sections)


def _inner(field: dict[str, Any], known: dict[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    """The section that a field holds, if it does, and whether it holds a list of them."""
    for form in (field, *field.get("anyOf", ()), *field.get("oneOf", ())):
        if "$ref" in form:
            return known[form["$ref"].rsplit("/", 1)[1]], False
        if "$ref" in form.get("items", {}):
            return known[form["items"]["$ref"].rsplit("/", 1)[1]], True
    return None, False


def _about(inner: dict[str, Any] | None) -> str:
    return "" if inner is None else str(inner["description"]).splitlines()[0]


def _kind(form: dict[str, Any]) -> str:
    """What values a field takes, in words."""
    several = form.get("anyOf") or form.get("oneOf")
    if several:
        return " or ".join(_kind(one) for one in several)
    if "$ref" in form:
        return "section"
    if "enum" in form or "const" in form:
        return " or ".join(f"`{_value(one)}`" for one in form.get("enum", [form.get("const")]))
    if "prefixItems" in form:
        return f"[{', '.join(_kind(one) for one in form['prefixItems'])}]"
    if form.get("type") == "array":
        return f"[{_kind(form.get('items', {}))}, …]"
    if form.get("type") == "object":
        return _mapping(form)
    limits = [f"{word} {form[name]:,}" for name, word in _LIMITS if name in form]
    return " ".join([_KINDS.get(form.get("type", ""), form.get("type", "anything")), ", ".join(limits)]).strip()


def _mapping(form: dict[str, Any]) -> str:
    values = form.get("additionalProperties") or next(iter(form.get("patternProperties", {}).values()), None)
    keys = form.get("propertyNames")
    told = "mapping"
    if keys and "enum" in keys:
        told += f" with {' or '.join(f'`{one}`' for one in keys['enum'])}"
    return f"{told} to {_kind(values)}" if isinstance(values, dict) and values else told


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    return "its defaults" if isinstance(value, dict) and value else f"`{_value(value)}`"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cell(text: str) -> str:
    """Text in a table's cell: no bar ends it, and outside of code nothing is taken for HTML."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if number % 2 else part.replace("<", "\\<") for number, part in enumerate(parts))
