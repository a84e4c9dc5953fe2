"""Where a study was last recorded, if somebody named a store: a call without its name goes nowhere else."""

import json
import os
from pathlib import Path

from lossbench.errors import UserError
from lossbench.system import write_atomically
from lossbench.tracking.outs import home_of
from lossbench.tracking.store import STORE, VARIABLE, store_of

FILE = "store.json"


def remember(root: Path, moved: bool = False) -> None:
    """Write down the store that ``MLFLOW_TRACKING_URI`` names, without credentials.

    The study's own is none, named or not (``mlflow run`` names it): a study may be moved, its store with it.

    Args:
        root: the study's folder.
        moved: somebody says that the study's record goes on here: in the default one, too.

    """
    store, file = store_of(root), home_of(root) / FILE
    if store.file is not None and store.file.resolve() == (root / STORE).resolve():
        if moved or (os.environ.get(VARIABLE) and remembered(root) is not None):
            file.unlink(missing_ok=True)
    elif moved or remembered(root) != store.shown:
        write_atomically(file, json.dumps({"store": store.shown}) + "\n", durable=True)


def remembered(root: Path) -> str | None:
    """Read where the study was last recorded; None where nobody named a store.

    Raises:
        UserError: the file is damaged: a call without the store's name would go to the study's own.

    """
    file = home_of(root) / FILE
    try:
        return str(json.loads(file.read_bytes())["store"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{file}: not what a record wrote, so it is not known where this study is recorded; set "
            f"{VARIABLE} to that store and say `lossbench retrain --move-store` once"
        ) from None


def expect_remembered(root: Path) -> None:
    """Refuse another store than the study was last recorded in.

    Raises:
        UserError: naming both; or that it is not known where that was.

    """
    before, now = remembered(root), store_of(root).shown
    if before is not None and before != now:
        raise UserError(
            f"{VARIABLE}: this study is recorded in {before}, and {now} is asked for; set it to the "
            "former, or say `lossbench retrain --move-store` once"
        )
