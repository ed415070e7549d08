"""Ask the operator's own script about servers: one program, four words, JSON in and out.

The script is what knows IPMI, Redfish, PXE or an image server; Sublet knows leases. It
stands in the folder ``SUBLET_HOOKS``, is called as ``SCRIPT VERB`` with one JSON document
on standard input, and prints one on standard output. ``docs/providers/metal.md`` is its
contract.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from inventory.providers.errors import (
    AuthFailed,
    BadAnswer,
    NoCapacity,
    NotFound,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    TimedOut,
)
from inventory.providers.http import parse

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,60}", re.ASCII)
TIMEOUT = 60.0  # seconds; a script that needs longer answers at once and works on
LARGEST_ANSWER = 32 * 1024 * 1024
SHOWN = 300  # characters of what a failing script said

# What a script may say is wrong: {"error": {"code": …, "message": …}}.
CODES: Mapping[str, type[ProviderError]] = {
    "no-capacity": NoCapacity,
    "quota": QuotaExceeded,
    "auth": AuthFailed,
    "not-found": NotFound,
}


class Hook:
    """The account's script, found in ``SUBLET_HOOKS`` by its name and by nothing else."""

    def __init__(self, name: str, secrets: Mapping[str, str]) -> None:
        self._path = _find(name)
        self._secrets = dict(secrets)

    def ask(self, verb: str, request: Mapping[str, Any], *, changes: bool = False) -> dict[str, Any]:
        """Return the script's document. ``changes``: a failure may have taken effect.

        Secrets go in with the document, never as arguments or in the environment, where
        any process of the machine could read them.
        """
        document = json.dumps({**request, "secrets": self._secrets}).encode()
        try:
            process = subprocess.Popen(  # noqa: S603 - a file that the operator put into one folder
                [str(self._path), verb],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._path.parent,
                env={"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"},
                start_new_session=True,
            )
        except OSError as error:
            raise ProviderError(
                _("The script “%(name)s” cannot be started: %(why)s.")
                % {"name": self._path.name, "why": error.strerror},
                retryable=True,
            ) from error
        try:
            output, complaints = process.communicate(document, timeout=TIMEOUT)
        except subprocess.TimeoutExpired as error:
            # With everything that it started: a child that holds the pipe would keep us waiting.
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise TimedOut(
                _("%(verb)s: the script gave no answer within %(n)s seconds.")
                % {"verb": verb, "n": int(TIMEOUT)},
                doubtful=changes,
            ) from error
        return self._understand(verb, process.returncode, output, complaints, changes)

    def _understand(
        self, verb: str, status: int, output: bytes, complaints: bytes, changes: bool
    ) -> dict[str, Any]:
        answer: Any = None
        if len(output) <= LARGEST_ANSWER:
            try:
                answer = parse(output)
            except ValueError:
                answer = None
        if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
            raise self._refusal(verb, answer["error"])
        if status != 0:
            said = self._safe(complaints.decode(errors="replace"))
            raise ProviderError(
                _("%(verb)s: the script ended with status %(status)s. %(said)s")
                % {"verb": verb, "status": status, "said": said},
                retryable=True,
                doubtful=changes,
            )
        if not isinstance(answer, dict):
            raise BadAnswer(_("%(verb)s: the script did not print one JSON object.") % {"verb": verb})
        return answer

    def _refusal(self, verb: str, error: Mapping[str, Any]) -> ProviderError:
        code = str(error.get("code", ""))[:60]
        said = f"{verb}: {self._safe(str(error.get('message', '')) or code)}"
        if code == "rate-limited":
            return RateLimited(said, code=code)
        if code in CODES:
            return CODES[code](said, code=code)
        return ProviderError(said, code=code, retryable=code == "later")

    def _safe(self, text: str) -> str:
        """Return the end of what a script said on one line, without any secret that it may have repeated."""
        for secret in self._secrets.values():
            if secret:
                text = text.replace(secret, "…")
        return " ".join(text.split())[-SHOWN:]


def _find(name: str) -> Path:
    folder = str(settings.SUBLET_HOOKS)
    if not folder:
        raise ProviderError(_("Set SUBLET_HOOKS to the folder of your scripts, and start Sublet again."))
    if not NAME.fullmatch(name):
        raise ProviderError(
            _("The account’s option “hook” must be the name of a script in SUBLET_HOOKS, without a path.")
        )
    root = Path(folder).resolve()
    path = (root / name).resolve()
    if path.parent != root or not path.is_file() or not os.access(path, os.X_OK):
        raise ProviderError(_("There is no executable script “%(name)s” in SUBLET_HOOKS.") % {"name": name})
    if path.stat().st_mode & stat.S_IWOTH or root.stat().st_mode & stat.S_IWOTH:
        raise ProviderError(
            _("Anybody on the machine could change “%(name)s”: take away the right of others to write.")
            % {"name": name}
        )
    return path
