"""Every error is a problem document (RFC 9457) that says what to do."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, JsonResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from rest_framework import exceptions, status
from rest_framework.response import Response
from rest_framework.views import exception_handler

from portal.common.errors import DomainError, InvalidInput

CONTENT_TYPE = "application/problem+json"

TITLES = {
    400: gettext_lazy("The request cannot be used"),
    401: gettext_lazy("Sign in or send a token"),
    402: gettext_lazy("Funds do not cover this"),
    403: gettext_lazy("Not allowed"),
    404: gettext_lazy("Not found"),
    405: gettext_lazy("Method not allowed"),
    409: gettext_lazy("The state of things does not allow this"),
    413: gettext_lazy("The request is too large"),
    415: gettext_lazy("Send JSON"),
    429: gettext_lazy("Too many requests"),
}


def problem(code: str, http_status: int, detail: str, **members: Any) -> dict[str, Any]:
    """Return a problem document; ``members`` are its extension members."""
    return {
        "type": f"urn:sublet:problem:{code}",
        "title": str(TITLES.get(http_status, _("Something went wrong"))),
        "status": http_status,
        "code": code,
        "detail": detail,
        **members,
    }


def _flatten(detail: Any, path: str = "") -> list[dict[str, str]]:
    if isinstance(detail, dict):
        return [
            error
            for name, value in detail.items()
            for error in _flatten(value, f"{path}.{name}".strip(".") if name != "non_field_errors" else path)
        ]
    if isinstance(detail, list):
        return [error for value in detail for error in _flatten(value, path)]
    return [{"field": path, "message": str(detail)}]


def handle(error: Exception, context: dict[str, Any]) -> Response | None:
    """Turn an exception of a view into a problem document (DRF's ``EXCEPTION_HANDLER``)."""
    if isinstance(error, DomainError):
        members = dict(error.extra)
        if isinstance(error, InvalidInput) and error.field:
            members["errors"] = [{"field": error.field, "message": error.message}]
        body = problem(error.code, error.status, error.message, **members)
        return Response(body, status=error.status, content_type=CONTENT_TYPE)
    response = exception_handler(error, context)
    if response is None:
        return None
    members = {}
    if isinstance(error, exceptions.ValidationError):
        errors = _flatten(error.detail)
        code, detail = (
            "invalid-input",
            "; ".join(
                f"{item['field']}: {item['message']}" if item["field"] else item["message"] for item in errors
            ),
        )
        members["errors"] = errors
    elif isinstance(error, Http404):
        code, detail = "not-found", _("There is nothing here.")
    elif isinstance(error, PermissionDenied):
        code, detail = "forbidden", _("You may not do this.")
    else:
        code = str(getattr(error, "default_code", "error")).replace("_", "-")
        detail = str(getattr(error, "detail", error))
    if isinstance(error, exceptions.Throttled) and (wait := getattr(error, "wait", None)) is not None:
        members["retry_after"] = int(wait) + 1
    response.data = problem(code, response.status_code, detail, **members)
    response.content_type = CONTENT_TYPE
    return response


def not_found(request: HttpRequest) -> JsonResponse:
    """Answer an unknown address below the API."""
    body = problem("not-found", status.HTTP_404_NOT_FOUND, _("There is no such address in this API."))
    return JsonResponse(body, status=404, content_type=CONTENT_TYPE)
