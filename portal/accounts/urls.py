"""Addresses of the accounts pages that allauth does not have."""

from django.urls import path

from portal.accounts import views

app_name = "accounts"

urlpatterns = [
    path("join/", views.join, name="join"),
    path("join/<str:token>/", views.open_invitation, name="invitation"),
    path("account/organization/", views.choose, name="choose-organization"),
    path("account/totp-qr.svg", views.totp_qr, name="totp-qr"),
]
