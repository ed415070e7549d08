"""What cloud-init is told at a machine's first boot: the SSH keys, and a script of ours.

Formats: https://docs.cloud-init.io/en/latest/explanation/format.html
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText


def user_data(keys: Sequence[str], data: str) -> str:
    """Return user data that authorizes all keys: a key pair holds one, and not every kind.

    Two parts become one MIME message, which cloud-init takes apart again.
    """
    if not keys:
        return data
    config = "#cloud-config\n" + json.dumps({"ssh_authorized_keys": [key.strip() for key in keys]}) + "\n"
    if not data:
        return config
    message = MIMEMultipart(boundary="sublet-user-data")
    message.attach(MIMEText(config, "cloud-config", "utf-8"))
    message.attach(
        MIMEText(data, "cloud-config" if data.startswith("#cloud-config") else "x-shellscript", "utf-8")
    )
    return message.as_string()
