"""What keeps the code readable, counted: few files per folder, one name per file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "cdgmae"
LAYERS = ("commands", "settings", "workflow")  # their files are named after stages
MOST_FILES = 12


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))


def test_a_room_holds_a_dozen_files() -> None:
    rooms = Counter(path.parent for path in sources())
    assert not {str(room): count for room, count in rooms.items() if count > MOST_FILES}


def test_a_file_name_occurs_once_beside_the_layers_that_follow_the_stages() -> None:
    names = Counter(path.name for path in sources() if path.relative_to(PACKAGE).parts[0] not in LAYERS)
    assert not [name for name, count in names.items() if count > 1]
