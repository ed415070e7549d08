"""Hold an adapter and our own fake to Google's discovery documents.

A discovery document says which methods there are, with their paths and parameters, and
what a request and an answer look like (https://developers.google.com/discovery/v1/reference/apis).
The check is strict on both sides: a parameter or a field that the document does not have,
a value of another type, one that is not in the list, a field that only Google may write.
Answers that are errors must be Google's error document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

MOST_PROBLEMS = 10
LONG = {"int64", "uint64"}
LIST = ("filter", "maxResults", "orderBy", "pageToken")
AGGREGATED = (*LIST, "includeAllScopes", "serviceProjectNumber")
CHANGE = ("requestId",)
# Methods of compute v1 that the shared copy of the document leaves out, as revision 20261106
# has them; of their schemas, the fields that we use.
LEFT_OUT: Mapping[str, tuple[str, str, tuple[str, ...], str, str]] = {
    "compute.firewalls.list": ("GET", "global/firewalls", LIST, "", "FirewallList"),
    "compute.firewalls.insert": ("POST", "global/firewalls", CHANGE, "Firewall", "Operation"),
    "compute.firewalls.patch": ("PATCH", "global/firewalls/{firewall}", CHANGE, "Firewall", "Operation"),
    "compute.firewalls.delete": ("DELETE", "global/firewalls/{firewall}", CHANGE, "", "Operation"),
    "compute.disks.aggregatedList": ("GET", "aggregated/disks", AGGREGATED, "", "DiskAggregatedList"),
    "compute.disks.delete": ("DELETE", "zones/{zone}/disks/{disk}", CHANGE, "", "Operation"),
    "compute.addresses.aggregatedList": (
        "GET",
        "aggregated/addresses",
        AGGREGATED,
        "",
        "AddressAggregatedList",
    ),
    "compute.addresses.delete": (
        "DELETE",
        "regions/{region}/addresses/{address}",
        CHANGE,
        "",
        "Operation",
    ),
}
TEXT: Mapping[str, Any] = {"type": "string"}


def _listing(items: Mapping[str, Any]) -> dict[str, Any]:
    named = dict.fromkeys(("id", "kind", "nextPageToken", "selfLink"), TEXT)
    unreachable = {"type": "array", "items": TEXT}
    return {"type": "object", "properties": {**named, "items": items, "unreachables": unreachable}}


def _by_place(scoped: str) -> dict[str, Any]:
    return _listing({"type": "object", "additionalProperties": {"$ref": scoped}})


def _scoped(kind: str, schema: str) -> dict[str, Any]:
    warning = {"type": "object", "properties": {"code": TEXT, "message": TEXT}}
    return {
        "type": "object",
        "properties": {kind: {"type": "array", "items": {"$ref": schema}}, "warning": warning},
    }


def _thing(*fields: str, status: Sequence[str]) -> dict[str, Any]:
    labels = {"type": "object", "additionalProperties": TEXT}
    names = ("creationTimestamp", "id", "kind", "name", "selfLink", *fields)
    properties: dict[str, Any] = dict.fromkeys(names, TEXT)
    return {
        "type": "object",
        "properties": {**properties, "labels": labels, "status": {**TEXT, "enum": list(status)}},
    }


SCHEMAS: Mapping[str, Any] = {
    "FirewallList": _listing({"type": "array", "items": {"$ref": "Firewall"}}),
    "DiskAggregatedList": _by_place("DisksScopedList"),
    "DisksScopedList": _scoped("disks", "Disk"),
    "Disk": _thing(
        "zone",
        "sizeGb",
        "type",
        status=("CREATING", "DELETING", "FAILED", "READY", "RESTORING", "UNAVAILABLE"),
    ),
    "AddressAggregatedList": _by_place("AddressesScopedList"),
    "AddressesScopedList": _scoped("addresses", "Address"),
    "Address": _thing("address", "addressType", "region", status=("IN_USE", "RESERVED", "RESERVING")),
}
ERROR: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "integer"},
                "message": TEXT,
                "status": TEXT,
                "errors": {"type": "array", "items": {"type": "any"}},
                "details": {"type": "array", "items": {"type": "any"}},
            },
        }
    },
    "required": ["error"],
}


@dataclass(frozen=True)
class Method:
    id: str
    http: str
    path: re.Pattern[str]
    query: Mapping[str, Mapping[str, Any]]
    request: str
    response: str
    document: Document


class Document:
    """One discovery document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.schemas: dict[str, Any] = dict(document["schemas"])
        self.common = document.get("parameters", {})
        self.methods: list[Method] = []
        self._prefix = "/" + document["servicePath"]
        self._collect(document)

    def _collect(self, resource: Mapping[str, Any]) -> None:
        for method in resource.get("methods", {}).values():
            parameters = method.get("parameters", {})
            path = method["path"]
            for name, each in parameters.items():
                # “v1/{+parent}/skus” is told apart from others by what “parent” looks like.
                if each.get("pattern") and each["location"] == "path":
                    path = path.replace(f"{{+{name}}}", f"<<{each['pattern'].strip('^$')}>>")
            self._add(
                method["id"],
                method["httpMethod"],
                path,
                {name: each for name, each in parameters.items() if each["location"] == "query"},
                method.get("request", {}).get("$ref", ""),
                method.get("response", {}).get("$ref", ""),
            )
        for each in resource.get("resources", {}).values():
            self._collect(each)

    def _add(
        self, name: str, http: str, path: str, query: Mapping[str, Any], request: str, response: str
    ) -> None:
        pattern = ""
        for part in re.split(r"(<<.+?>>|\{\+?\w+\})", self._prefix + path):
            if part.startswith("<<"):
                pattern += part[2:-2]
            elif part.startswith("{"):
                pattern += ".+" if part.startswith("{+") else "[^/]+"
            else:
                pattern += re.escape(part)
        self.methods.append(Method(name, http, re.compile(pattern), query, request, response, self))

    def complete_compute(self) -> None:
        """Add what the shared copy of compute v1 leaves out."""
        for name, schema in SCHEMAS.items():
            self.schemas.setdefault(name, schema)
        for name, (http, path, query, request, response) in LEFT_OUT.items():
            parameters = {each: {"type": "string", "location": "query"} for each in query}
            self._add(name, http, f"projects/{{project}}/{path}", parameters, request, response)

    def check(self, value: Any, schema: Any, *, sent: bool, where: str = "") -> list[str]:
        """Return what is wrong with a value, as sentences with its place in the document."""
        if "$ref" in schema:
            schema = self.schemas[schema["$ref"]]
        if sent and schema.get("readOnly"):
            return [f"{where} is Google’s to write"]
        kind = schema.get("type", "any")
        if kind == "object":
            return self._object(value, schema, sent=sent, where=where)
        if kind == "array":
            if not isinstance(value, list):
                return [f"{where} is no list"]
            return [
                problem
                for number, each in enumerate(value)
                for problem in self.check(each, schema["items"], sent=sent, where=f"{where}[{number}]")
            ]
        return _scalar(value, kind, schema, where)

    def _object(self, value: Any, schema: Mapping[str, Any], *, sent: bool, where: str) -> list[str]:
        if not isinstance(value, Mapping):
            return [f"{where} is no object"]
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        found = [f"{where}.{name} is missing" for name in schema.get("required", ()) if name not in value]
        for name, each in value.items():
            inner = properties.get(name, others)
            if inner is None:
                found.append(f"{where}.{name} is not in the document")
            else:
                found += self.check(each, inner, sent=sent, where=f"{where}.{name}")
        return found


def _scalar(value: Any, kind: str, schema: Mapping[str, Any], where: str) -> list[str]:
    good = {
        "any": True,
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
    }[kind]
    if not good:
        return [f"{where} is no {kind}: {value!r}"]
    if schema.get("format") in LONG and kind == "string" and not re.fullmatch(r"-?\d+", value):
        return [f"{where} is no {schema['format']}: {value!r}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where} is none of {schema['enum']}: {value!r}"]
    return []


class Discovery:
    """Several documents; ``problems`` is everything that did not fit since the last look."""

    def __init__(self, *paths: Path) -> None:
        self.documents = [Document(json.loads(path.read_text())) for path in paths]
        for document in self.documents:
            if any(method.id.startswith("compute.") for method in document.methods):
                document.complete_compute()
        self.problems: list[str] = []

    def method(self, http: str, path: str) -> Method | None:
        for document in self.documents:
            for method in document.methods:
                if method.http == http and method.path.fullmatch(unquote(path)):
                    return method
        return None

    def request(self, http: str, path: str, query: Mapping[str, Sequence[str]], body: Any) -> list[str]:
        """Return, and keep, what is wrong with a request."""
        method = self.method(http, path)
        if method is None:
            return self._keep(f"{http} {path}", ["there is no such method"])
        found = []
        for name, values in query.items():
            known = method.query.get(name) or method.document.common.get(name)
            if known is None:
                found.append(f"parameter {name} is not in the document")
            elif len(values) > 1 and not known.get("repeated"):
                found.append(f"parameter {name} is given twice")
        found += [
            f"parameter {name} is missing"
            for name, each in method.query.items()
            if each.get("required") and name not in query
        ]
        if method.request:
            if body is None:
                found.append("the body is missing")
            else:
                found += method.document.check(body, {"$ref": method.request}, sent=True, where="body")
        elif body is not None:
            found.append("a body that the document does not want")
        return self._keep(f"request {method.id}", found)

    def answer(self, http: str, path: str, status: int, body: Any) -> list[str]:
        """Return, and keep, what is wrong with an answer."""
        method = self.method(http, path)
        if method is None:
            return []
        schema: Any = {"$ref": method.response} if status < 400 else ERROR
        found = method.document.check(body, schema, sent=False, where="answer")
        return self._keep(f"answer of {method.id}", found)

    def _keep(self, what: str, found: list[str]) -> list[str]:
        self.problems += [f"{what}: {problem}" for problem in found[:MOST_PROBLEMS]]
        return found
