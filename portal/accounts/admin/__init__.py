"""Staff pages: people, customers and their approval, access, and the event log."""

from portal.accounts.admin import keys, log, organizations, people

__all__ = ["keys", "log", "organizations", "people"]
