"""Promises in the staff's admin: everything to look at, and actions that call public functions.

Nothing is typed over: a lease changes by its state machine, a node by way of the leases
that count on it, a machine by what its provider says.
"""

from leases.admin import buying, lease, machines, nodes

__all__ = ["buying", "lease", "machines", "nodes"]
