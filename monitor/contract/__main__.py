"""`python -m monitor.contract FOLDER`: write schemas, AsyncAPI document and samples below it; `make contract` does."""

from __future__ import annotations

import sys
from pathlib import Path

from monitor.contract.files import files


def main(folder: Path) -> None:
    """Write what has changed, remove what is no more."""
    wanted = files()
    for kind in ("schemas", "samples"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for path in (folder / kind).glob("*.json"):
            if f"{kind}/{path.name}" not in wanted:
                path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
