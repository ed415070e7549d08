"""What beat runs. Each sweep finds its work by its state, is safe twice at once, and after dying anywhere.

The order of one round is that of this page: what begins is committed before it is
launched, and a node is given on only after its turnover.
"""

from __future__ import annotations

from datetime import datetime

from leases.provisioning import journal, networks
from leases.provisioning.ending import end_due
from leases.provisioning.notices import notify_due
from leases.provisioning.orphans import find_orphans
from leases.provisioning.probe import probe_due
from leases.provisioning.starting import start_due
from leases.provisioning.turnover import turnover_due

__all__ = [
    "end_due",
    "find_orphans",
    "launch_due",
    "notify_due",
    "probe_due",
    "run_all",
    "start_due",
    "turnover_due",
]


def launch_due(*, now: datetime) -> int:
    """Make the networks that leases wait for, then launch; return how many machines were recorded."""
    networks.prepare_due(now=now)
    return journal.launch_due(now=now)


def run_all(*, now: datetime) -> None:
    """Run one round of every sweep but the search for orphans, ends before starts.

    For a demonstration or a test that moves its own clock; beat runs each by itself.
    """
    end_due(now=now)
    turnover_due(now=now)
    start_due(now=now)
    launch_due(now=now)
    probe_due(now=now)
    notify_due(now=now)
