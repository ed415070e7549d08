"""Supply in the staff's admin: stock Django, with pages of its own for secrets and deliveries.

Django wraps add and change forms in a transaction, so those call parts. Actions and the
extra pages run outside of one, and call public functions.
"""

from inventory.admin import accounts, catalog, commitments, gpu_names, nodes, software

__all__ = ["accounts", "catalog", "commitments", "gpu_names", "nodes", "software"]
