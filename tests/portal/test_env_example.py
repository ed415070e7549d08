"""``.env.example`` lists every variable that the product reads, and nothing else."""

import re
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent.parent
# Set by make, manage.py and the embedded services, never by a person.
INTERNAL = {
    "SUBLET_LOCAL",
    "SUBLET_DB_ROLE",
    "DATABASE_SUPERUSER_URL",
    "DJANGO_SETTINGS_MODULE",
    "PATH",
    "PYTHONPATH",
}


def test_the_example_is_complete_and_has_no_strangers():
    code = "\n".join(path.read_text() for path in sorted((BASE_DIR / "portal").rglob("*.py")))
    read = set(re.findall(r'env\.\w+\(\s*"([A-Z_]+)"', code))
    read |= set(re.findall(r'(?:required|whole_number)\(\s*"([A-Z_]+)"', code))
    read |= set(re.findall(r'os\.environ(?:\.get\(|\[)"([A-Z_]+)"', code))
    listed = set(re.findall(r"^([A-Z_]+)=", (BASE_DIR / ".env.example").read_text(), flags=re.MULTILINE))
    assert listed == read - INTERNAL
