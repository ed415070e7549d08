"""The API reference as a page of our own: Redoc and Swagger UI break under a strict CSP."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from drf_spectacular.generators import SchemaGenerator

METHODS = ("get", "post", "put", "patch", "delete")


def _name(schema: dict[str, Any]) -> str:
    return str(schema["$ref"]).rsplit("/", 1)[-1]


def _type(schema: dict[str, Any], components: dict[str, Any]) -> str:
    """Return a type for people: enumerations by their values, pages by what they list."""
    if "$ref" in schema:
        target = components.get(_name(schema), {})
        if "enum" in target:
            return _type(target, components)
        if _is_page(_name(schema), target):
            return f"{_type(target['properties']['results'], components)}, in pages"
        return _name(schema)
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    for key, sign in (("allOf", " & "), ("oneOf", " | ")):
        if key in schema:
            kind = sign.join(_type(part, components) for part in schema[key])
            return f"{kind} | null" if schema.get("nullable") else kind
    kind = str(schema.get("type", "any"))
    if kind == "array":
        kind = f"{_type(schema.get('items', {}), components)}[]"
    elif "format" in schema:
        kind = f"{kind} ({schema['format']})"
    return f"{kind} | null" if schema.get("nullable") else kind


def _is_page(name: str, schema: dict[str, Any]) -> bool:
    return name.startswith("Paginated") and "results" in schema.get("properties", {})


def _model_of(schema: dict[str, Any], components: dict[str, Any]) -> str:
    """Return the name of the model that an answer consists of, to link to; nothing for a file."""
    if "$ref" not in schema:
        return ""
    target = components.get(_name(schema), {})
    if _is_page(_name(schema), target):
        return _name(target["properties"]["results"]["items"])
    return _name(schema)


def _fields(schema: dict[str, Any], components: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the properties of an object schema, following one reference."""
    if "$ref" in schema:
        schema = components.get(str(schema["$ref"]).rsplit("/", 1)[-1], {})
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "type": _type(value, components),
            "required": name in required,
            "description": value.get("description", ""),
        }
        for name, value in schema.get("properties", {}).items()
    ]


def _content(body: dict[str, Any]) -> dict[str, Any]:
    content = body.get("content", {})
    first: dict[str, Any] = next(iter(content.values()), {})
    return dict(first.get("schema", {}))


def operations(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the schema's operations, flattened for the page, grouped by tag."""
    components = schema.get("components", {}).get("schemas", {})
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, item in schema["paths"].items():
        for method in METHODS:
            if method not in item:
                continue
            operation = item[method]
            body = _content(operation.get("requestBody", {}))
            groups.setdefault(operation.get("tags", ["api"])[0], []).append(
                {
                    "id": operation["operationId"],
                    "method": method.upper(),
                    "path": path,
                    "summary": operation.get("summary", ""),
                    "description": operation.get("description", ""),
                    "parameters": [
                        {**parameter, "type": _type(parameter.get("schema", {}), components)}
                        for parameter in operation.get("parameters", [])
                    ],
                    "body": _fields(body, components),
                    "responses": [
                        {
                            "status": status,
                            "description": response.get("description", ""),
                            "type": _type(_content(response), components) if response.get("content") else "",
                            "model": _model_of(_content(response), components),
                        }
                        for status, response in operation.get("responses", {}).items()
                    ],
                }
            )
    models = [
        {
            "name": name,
            "description": value.get("description", ""),
            "fields": _fields(value, components),
        }
        for name, value in components.items()
        if "properties" in value and not _is_page(name, value) and not name.endswith("Request")
    ]
    return [{"tag": tag, "operations": found} for tag, found in groups.items()] + (
        [{"tag": "models", "models": models}] if models else []
    )


def reference(request: HttpRequest) -> HttpResponse:
    """Show the reference, made from the same schema that ``/api/v1/schema/`` serves."""
    schema = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    context = {
        "info": schema["info"],
        "groups": operations(schema),
        "example": 'curl -H "Authorization: Bearer sublet_…" ' + request.build_absolute_uri("/api/v1/leases"),
    }
    return render(request, "api/reference.html", context)
