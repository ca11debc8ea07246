"""The page of all configuration keys, from the JSON schema that the configuration's classes give."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cdgmae.config import json_schema

HEAD = """\
# Configuration

Every key with its type, its default and what it means. A file is checked whole by `cdgmae config check --config FILE`, before any job runs; an
editor that knows YAML schemas completes keys from `workflow/schemas/config.schema.json`, which the first line of `config.yaml` names. *NAME* stands
for a name that you choose.
"""

Schema = dict[str, Any]


def configuration_page() -> str:
    """Markdown with one table of keys per section and per object in it, each class once."""
    return "".join([HEAD, *_Page(json.loads(json_schema())).sections()])


class _Page:
    """Walks the schema from its root and remembers which classes were already described, and where."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.headings: dict[str, str] = {}

    def sections(self) -> Iterator[str]:
        """The keys of the root, then every section in the order of the schema's stages."""
        properties = self.schema["properties"]
        order = ["seed", "demo", "shards", "views", "consistency", "pretrain", "propagation", "report", "runtime"]
        for name in sorted(properties, key=order.index):
            classes = list(self._classes(properties[name]))
            if not classes:
                yield f"\n## `{name}`\n\n{properties[name]['description']}\n\n{_described(properties[name], required=False)}\n"
            for class_name in classes:
                yield from self._object(name, class_name, level=2, said=properties[name]["description"])

    def _object(self, path: str, class_name: str, level: int, said: str = "") -> Iterator[str]:
        """Heading and table of one class, then of the classes that it holds."""
        definition = self.schema["$defs"][class_name]
        properties = sorted(definition["properties"].items())
        self.headings.setdefault(class_name, self._heading(path, class_name))
        yield f"\n{'#' * min(level, 5)} {self.headings[class_name]} {{ #{class_name} }}\n\n{said or _first_paragraph(definition)}\n\n"
        yield "| key | type and default | |\n|---|---|---|\n"
        below: list[tuple[str, str]] = []
        for key, value in properties:
            inner_path = f"{path}.{key}" + (".NAME" if "patternProperties" in value else "")
            below += [(inner_path, name) for name in self._classes(value) if name not in self.headings]
            for name in self._classes(value):
                self.headings.setdefault(name, self._heading(inner_path, name))
            kind = self._links(value) or _described(value, key in definition.get("required", ()))
            yield f"| `{key}` | {kind} | {_cell(value)} |\n"
        for inner_path, name in below:
            yield from self._object(inner_path, name, level + 1)

    def _heading(self, path: str, class_name: str) -> str:
        kind = self.schema["$defs"][class_name]["properties"].get("kind", {}).get("const")
        return f"`{path}`" + (f", kind `{kind}`" if kind else "")

    def _classes(self, value: Schema) -> Iterator[str]:
        """Names of the classes that a key's value may be of."""
        if "$ref" in value:
            name = value["$ref"].rsplit("/", 1)[-1]
            if "properties" in self.schema["$defs"][name]:
                yield name
        for inner in (*value.get("anyOf", ()), *value.get("oneOf", ()), *value.get("patternProperties", {}).values()):
            yield from self._classes(inner)
        if isinstance(value.get("items"), dict):
            yield from self._classes(value["items"])

    def _links(self, value: Schema) -> str:
        """Links to the tables of the classes that a key's value may be of; empty for a plain key."""
        return "<br>".join(f"[{self.headings[name]}](#{name})" for name in self._classes(value))


def _described(value: Schema, required: bool) -> str:
    """Type, bounds and default of a plain key."""
    if required:
        return f"{_type(value)}, **required**"
    return f"{_type(value)}, default `{json.dumps(value['default'])}`" if "default" in value else _type(value)


def _type(value: Schema) -> str:
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return " or ".join(f"`{choice}`" for choice in value["enum"])
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(choice) for choice in value["anyOf"] if choice.get("type") != "null"))
    if "prefixItems" in value:
        return f"[{', '.join(_type(item) for item in value['prefixItems'])}]"
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {}))}"
    bounds = [
        f"{sign} {value[key]}"
        for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
        if key in value
    ]
    return " ".join([value.get("type", "any value"), ", ".join(bounds)]).strip()


def _cell(value: Schema) -> str:
    return value.get("description", "").replace("|", "\\|").replace("\n", " ")


def _first_paragraph(definition: Schema) -> str:
    return definition.get("description", "").split("\n\n")[0]
