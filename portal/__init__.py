"""Sublet, the portal of a GPU capacity reseller."""

from portal.celery import app as celery_app

__all__ = ["celery_app"]
