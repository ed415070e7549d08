"""How every Django form is drawn."""

from __future__ import annotations

from django.forms.renderers import TemplatesSetting


class SubletFormRenderer(TemplatesSetting):
    """Draw forms and fields with our templates; widgets stay Django's own.

    Set as ``FORM_RENDERER``; needs ``django.forms`` in ``INSTALLED_APPS`` so that
    the widget templates are found. The admin draws its own field sets and is not
    touched.
    """

    form_template_name = "components/form.html"
    field_template_name = "components/field.html"
