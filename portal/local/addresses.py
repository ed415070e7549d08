"""Where the embedded services listen, and the secrets of one machine.

Only the standard library: settings import this in local mode, whether the
embedded services are installed or not.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

# Sockets need a short path (107 bytes), whatever the length of the project's.
SOCKETS = Path("/tmp")  # noqa: S108 - each run makes a 0700 folder with a random name in it


@dataclass(frozen=True)
class Addresses:
    """What the running supervisor wrote for ``manage.py`` and its children."""

    pid: int
    database_url: str
    database_owner_url: str
    database_superuser_url: str
    redis_url: str
    ec2_endpoint: str

    def environment(self) -> dict[str, str]:
        """Return the addresses as environment variables that settings read."""
        return {
            "DATABASE_URL": self.database_url,
            "DATABASE_OWNER_URL": self.database_owner_url,
            "DATABASE_SUPERUSER_URL": self.database_superuser_url,
            "REDIS_URL": self.redis_url,
            "SUBLET_EC2_ENDPOINT": self.ec2_endpoint,
        }


def home_of(base_dir: Path) -> Path:
    """Return the folder of everything that a running Sublet keeps on one machine."""
    return Path(os.environ.get("SUBLET_HOME") or base_dir / ".local").absolute()


def addresses_file(home: Path) -> Path:
    return home / "run" / "addresses.json"


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, replacing it in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


def write_addresses(home: Path, addresses: Addresses) -> None:
    write_private(addresses_file(home), json.dumps(asdict(addresses), indent=2))


def read_addresses(home: Path) -> Addresses | None:
    """Return the addresses of the running services, or ``None`` when none run here."""
    try:
        found = Addresses(**json.loads(addresses_file(home).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return found if is_alive(found.pid) else None


def is_alive(pid: int) -> bool:
    """Tell whether a process with this id exists, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def local_secrets(home: Path) -> dict[str, str]:
    """Return this machine's own secrets, made the first time and kept readable by their owner only."""
    path = home / "secrets.json"
    if not path.exists():
        made = {
            "secret_key": secrets.token_urlsafe(48),
            "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "database_password": secrets.token_urlsafe(24),
            "redis_password": secrets.token_urlsafe(24),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        write_private(temporary, json.dumps(made, indent=2))
        try:
            os.link(temporary, path)  # fails where another process was first: its secrets win
        except FileExistsError:
            pass
        finally:
            temporary.unlink(missing_ok=True)
    return dict(json.loads(path.read_text()))
