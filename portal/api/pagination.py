"""Cursor pagination: stable under inserts, and as fast on the last page as on the first."""

from __future__ import annotations

from rest_framework.pagination import CursorPagination


class ByNewest(CursorPagination):
    """Newest first by primary key."""

    ordering: str | tuple[str, ...] = "-pk"
    page_size = 50
    page_size_query_param = "limit"
    max_page_size = 200


class ByName(ByNewest):
    """The catalog: by primary key, oldest first."""

    ordering = "pk"


class ByStart(ByNewest):
    """By the beginning of a period, which is a generated column: a range is no cursor."""

    ordering = ("-started_at", "-pk")
