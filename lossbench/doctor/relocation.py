"""Where a store's files are: MLflow writes absolute paths, which a renamed checkout leaves behind."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lossbench.doctor.finding import Finding

ARTIFACTS = "mlartifacts"
COLUMNS = ("artifact_location", "artifact_uri", "source", "storage_location", "artifact_root")
"""Of MLflow's tables: those that hold addresses of files."""


def former_root(store: Path) -> Path | None:
    """Find the study's folder that a store's experiments name; None where they name none."""
    with closing(sqlite3.connect(f"{store.resolve().as_uri()}?mode=ro", uri=True)) as database:
        try:
            rows = database.execute("SELECT artifact_location FROM experiments").fetchall()
        except sqlite3.DatabaseError:
            return None
    for (location,) in rows:
        parts = Path(unquote(urlsplit(str(location)).path)).parts
        if str(location).startswith("file://") and ARTIFACTS in parts:
            return Path(*parts[: len(parts) - 1 - parts[::-1].index(ARTIFACTS)])
    return None


def relocate(store: Path, before: Path, now: Path) -> int:
    """Rewrite the addresses of files under one folder to another; all of them or none. Counts them."""
    changed = 0
    pairs = [(before.as_uri(), now.as_uri()), (str(before), str(now))]
    with closing(sqlite3.connect(store, timeout=60)) as database, database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
            for column in (one for one in columns if one in COLUMNS):
                for old, new in pairs:
                    # Names come from the schema and from COLUMNS; values are bound.
                    done = database.execute(
                        f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) '  # noqa: S608
                        f'WHERE substr("{column}", 1, ?) = ?',
                        (new + "/", len(old) + 2, len(old) + 1, old + "/"),
                    )
                    changed += done.rowcount
    return changed


def examine_relocation(root: Path, store: Path) -> list[Finding]:
    """Look whether the store's files are here, and its addresses lead to a folder that is gone."""
    if not store.is_file() or not (root / ARTIFACTS).is_dir():
        return []
    before, now = former_root(store), root.resolve()
    if before is None or before == now or (before / ARTIFACTS).exists():
        return []
    what = f"{store}: its artifacts are said to lie in {before}, which is gone; they are here"
    return [Finding(what, f"their addresses lead to {now}", lambda: _relocate(store, before, now))]


def _relocate(store: Path, before: Path, now: Path) -> None:
    relocate(store, before, now)
