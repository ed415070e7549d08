"""Filters of lists beyond those of django-filter."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import django_filters
from django import forms
from rest_framework.serializers import ValidationError

from portal.api.fields import AwareDateTimeField


class AwareTimeField(forms.Field):
    """A time with a zone, read as everywhere in the API: one without is refused, not guessed."""

    def to_python(self, value: Any) -> datetime | None:
        if value in self.empty_values:
            return None
        try:
            return AwareDateTimeField().to_internal_value(value)
        except ValidationError as error:
            raise forms.ValidationError([str(sentence) for sentence in error.detail]) from None


class AwareTimeFilter(django_filters.IsoDateTimeFilter):
    """Compare with a time that has a zone."""

    field_class = AwareTimeField
