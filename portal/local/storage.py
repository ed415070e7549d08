"""Where the embedded servers keep their data, and who owns it.

PostgreSQL refuses to run as root. Run by root, both servers run as ``nobody`` and
own their own folder; run by anyone else, they run as that user.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

SYSTEM_FOLDER = Path("/var/lib/sublet")
POINTER = "data-folder"


class LocalError(Exception):
    """Something on this machine stops the embedded services; the message says what to do."""


@dataclass(frozen=True)
class Storage:
    """A folder for the servers' data; ``uid`` is ``None`` when they run as ourselves."""

    folder: Path
    uid: int | None
    gid: int | None

    def make(self, name: str) -> Path:
        """Return a folder inside that only the servers' user can enter, made if needed."""
        path = self.folder / name
        path.mkdir(mode=0o700, exist_ok=True)
        self.give(path)
        path.chmod(0o700)
        return path

    def give(self, path: Path) -> None:
        """Make the servers' user the owner."""
        if self.uid is not None:
            os.chown(path, self.uid, self.gid or 0)

    def reaches(self, path: Path) -> bool:
        """Tell whether the servers' user can get to ``path`` and read it."""
        return self.uid is None or all(_open_to_others(part) for part in [path, *path.parents])


def _open_to_others(path: Path) -> bool:
    mode = path.stat().st_mode
    return bool(mode & stat.S_IXOTH) if stat.S_ISDIR(mode) else bool(mode & stat.S_IROTH)


def find_storage(home: Path) -> Storage:
    """Return where the data of ``home`` lies, choosing and noting a place the first time.

    That is ``home`` itself, unless we are root and ``nobody`` cannot reach it (a
    clone below ``/root``): then a folder below ``/var/lib/sublet``. No permission of
    an existing folder is ever widened.
    """
    home.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        return Storage(home, None, None)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise LocalError(
            "PostgreSQL does not run as root, and this machine has no user named nobody to run it as. "
            "Run make as an ordinary user."
        ) from None
    pointer = home / POINTER
    if pointer.exists():
        folder = Path(pointer.read_text().strip())
        if not folder.is_dir():
            raise LocalError(
                f"The data folder {folder} is gone. Restore it, or delete {pointer} to begin anew."
            )
        return Storage(folder, nobody.pw_uid, nobody.pw_gid)
    here = Storage(home, nobody.pw_uid, nobody.pw_gid)
    if here.reaches(home):
        return here
    if (home / "postgres").exists():
        raise LocalError(
            f"The user {nobody.pw_name}, who owns the database in {home}, can no longer enter that folder. "
            "Give others the right to pass through its parent folders again, or move it back."
        )
    folder = SYSTEM_FOLDER / secrets.token_hex(8)
    folder.mkdir(parents=True, mode=0o755)
    pointer.write_text(f"{folder}\n")
    return Storage(folder, nobody.pw_uid, nobody.pw_gid)


def reachable_copy(storage: Storage, package: Path, companions: list[Path], version: str) -> Path:
    """Return ``package`` where the servers' user can read it: itself, or a copy kept beside the data.

    ``companions`` are its sibling folders (shared libraries), copied along.
    """
    if all(storage.reaches(part) for part in [package, *companions]):
        return package
    target = storage.folder / "programs" / version
    if not target.exists():
        unfinished = target.with_name(f"{version}.{os.getpid()}")
        unfinished.mkdir(parents=True)
        for part in [package, *companions]:
            if part.is_dir():
                shutil.copytree(part, unfinished / part.name, symlinks=True)
            else:
                shutil.copy2(part, unfinished / part.name)
        for path in unfinished.rglob("*"):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        unfinished.chmod(0o755)
        unfinished.rename(target)
    return target / package.name
