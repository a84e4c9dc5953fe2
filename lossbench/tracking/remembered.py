"""Where a study was last recorded, if somebody named a store: a call without its name goes nowhere else."""

import json
import os
from pathlib import Path

from lossbench.errors import UserError
from lossbench.files import write_whole
from lossbench.tracking import places
from lossbench.tracking.server import shown, tracking_uri

FILE = "store.json"


def remember(root: Path) -> None:
    """Write down the store that ``MLFLOW_TRACKING_URI`` names, without credentials; the default is none."""
    if os.environ.get("MLFLOW_TRACKING_URI") and remembered(root) != shown(tracking_uri(root)):
        write_whole(places.home(root) / FILE, json.dumps({"store": shown(tracking_uri(root))}) + "\n")


def remembered(root: Path) -> str | None:
    """Read where the study was last recorded; None where nobody named a store."""
    try:
        return str(json.loads((places.home(root) / FILE).read_bytes())["store"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def expect_remembered(root: Path) -> None:
    """Refuse another store than the study was last recorded in.

    Raises:
        UserError: naming both.

    """
    before, now = remembered(root), shown(tracking_uri(root))
    if before is not None and before != now:
        raise UserError(
            f"MLFLOW_TRACKING_URI: this study is recorded in {before}, and {now} is asked for; set it to the "
            "former, or say `lossbench retrain --move-store` once"
        )
