"""People: created, made staff, locked out, helped back in. Nobody is deleted; the log refers to them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminUserCreationForm
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from portal.accounts import events, users
from portal.accounts.admin.base import LookOnlyInline, each, staff
from portal.accounts.models import Membership, User

WATCHED = ("full_name", "time_zone", "is_active", "is_staff", "is_superuser")


class PersonCreationForm(AdminUserCreationForm):
    """An address and, if wanted, a password; the person proves the address when they first sign in."""

    class Meta:
        model = User
        fields = ("email", "full_name")


class MembershipInline(LookOnlyInline):
    model = Membership
    fields = ("organization", "role", "created_at")
    readonly_fields = ("created_at",)


@admin.register(User)
class UserAdmin(DjangoUserAdmin):
    """Only superusers make staff: a permission to edit people is not a permission to become one."""

    add_form = PersonCreationForm
    add_fieldsets = ((None, {"fields": ("email", "full_name", "usable_password", "password1", "password2")}),)
    fieldsets = (
        (None, {"fields": ("email", "password", "full_name", "time_zone")}),
        (
            gettext_lazy("Rights"),
            {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")},
        ),
        (gettext_lazy("Dates"), {"fields": ("last_login", "date_joined")}),
    )
    inlines = (MembershipInline,)
    list_display = ("email", "full_name", "second_factor", "is_staff", "is_active", "last_login")
    list_filter = ("is_staff", "is_superuser", "is_active")
    search_fields = ("email", "full_name")
    ordering = ("email",)
    list_per_page = 50
    show_full_result_count = False
    actions = ("remove_second_factors",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        from allauth.mfa.models import Authenticator

        factors = Authenticator.objects.filter(user=OuterRef("pk"))
        return super().get_queryset(request).annotate(has_factor=Exists(factors))

    @admin.display(description=gettext_lazy("second factor"), boolean=True)
    def second_factor(self, person: Any) -> bool:
        return bool(person.has_factor)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        fixed: tuple[str, ...] = ("last_login", "date_joined")
        if obj is not None:
            fixed += ("email",)  # changed by its owner, who proves the new one
        if not staff(request).is_superuser:
            fixed += ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")
        return fixed

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Nor may somebody who is no superuser set the password of one who is.
        above = obj is not None and (obj.is_staff or obj.is_superuser) and not staff(request).is_superuser
        return not above and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_inlines(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.inlines if obj is not None else ()

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        before = User.objects.filter(pk=obj.pk).values(*WATCHED).first() or {}
        super().save_model(request, obj, form, change)
        after = {field: getattr(obj, field) for field in WATCHED}
        changed = [field for field in WATCHED if before.get(field) != after[field]]
        if changed:
            events.record(
                kind="user.changed_by_staff" if change else "user.created_by_staff",
                subject_type="user",
                subject_id=str(obj.pk),
                actor=staff(request),
                now=timezone.now(),
                before={field: before[field] for field in changed} if change else {},
                after={"email": obj.email} | {field: after[field] for field in changed},
            )

    @admin.action(description=gettext_lazy("Remove second factors (after checking who asks)"))
    def remove_second_factors(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        if not staff(request).is_superuser:
            self.message_user(request, _("Only superusers remove second factors."), messages.ERROR)
            return
        each(
            self,
            request,
            queryset,
            lambda person: users.remove_factors(user=person, actor=staff(request), now=timezone.now()),
        )
