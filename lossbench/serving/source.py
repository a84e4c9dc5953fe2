"""Where a model comes from: MLflow's registry, or an arm that was trained here."""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lossbench.errors import UserError, nearest
from lossbench.execution.identity import use_own_code
from lossbench.params import ScriptExperiment, load_params
from lossbench.serving.replicate import ReplicateModel

if TYPE_CHECKING:
    from lossbench.retraining.registry import Registry

ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
"""Of a version in the registry."""


@contextmanager
def model_folder(root: Path, model: str | None, arm: str | None, seed: int | None) -> Iterator[Path]:
    """Give the folder of a replicate: weights.safetensors, arm.json, dataset.json, serving.json.

    Of a registered model just these files are read: the code that travels in it is not run.

    Args:
        root: the study's folder.
        model: an MLflow address, ``models:/NAME@champion``; None: the arm is meant.
        arm: a name under ``arms`` in params.yaml.
        seed: of the replicate; None: the one with the median validation score.

    Raises:
        UserError: naming what is not there.

    """
    use_code_of(root)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "replicate"
        if model is not None:
            yield _download(root, model, Path(scratch))
        elif arm is not None:
            _pack(root, arm, seed, folder)
            yield folder
        else:
            raise UserError("no model named; say --model models:/NAME@champion, or --arm ARM")


def use_code_of(root: Path) -> None:
    """Let the user's own modules be imported, where params are there to name them.

    A registered model is answered with, and loaded when it may be of ours alone, whatever they say meanwhile.
    """
    with suppress(UserError):
        use_own_code(load_params(root / "params.yaml"), root)


def load_model(root: Path, model: str | None, arm: str | None, seed: int | None) -> ReplicateModel:
    """Load a replicate; see :func:`model_folder`."""
    with model_folder(root, model, arm, seed) as folder:
        return ReplicateModel(folder)


def _download(root: Path, address: str, into: Path) -> Path:
    from lossbench.retraining.registry import Registry
    from lossbench.tracking.server import RefusedError, ServerGoneError, connect, server_errors

    if not address.startswith("models:/"):
        raise UserError(
            f"--model is '{address}'; allowed: models:/NAME@ALIAS, models:/NAME/VERSION or models:/ID"
        )
    try:
        client = connect(root)
        from mlflow.artifacts import download_artifacts

        with server_errors():
            if registered := ADDRESS.fullmatch(address):
                return _registered(Registry(client, registered["name"]), registered, into, address)
            whole = Path(download_artifacts(artifact_uri=address, dst_path=str(into)))
    except (ServerGoneError, RefusedError) as error:
        raise UserError(f"--model {address}: {error}") from None
    found = sorted(whole.glob("data/*/weights.safetensors"))
    if not found:
        raise UserError(f"--model {address}: no model of Lossbench (no weights.safetensors under data/)")
    return found[0].parent


def _registered(registry: "Registry", named: "re.Match[str]", into: Path, address: str) -> Path:
    """Download a version and hold its files against the digests in its tags."""
    version = named["version"] or registry.version_of(named["alias"])
    if version is None:
        raise UserError(f"--model {address}: '{registry.name}' has no version that is '{named['alias']}'")
    return registry.download(version, into)


def _pack(root: Path, arm: str, seed: int | None, folder: Path) -> None:
    from lossbench.serving.logged import median_seed, pack_replicate
    from lossbench.tracking.outs import ArmOuts

    params = load_params(root / "params.yaml")
    if arm not in params.arms:
        raise UserError(f"params.yaml: 'arms' has no '{arm}'; {nearest(arm, params.arms)}")
    outs = ArmOuts(root, params.arms[arm].experiment, arm)
    if isinstance(params.experiments[outs.experiment], ScriptExperiment):
        raise UserError(
            f"params.yaml: arm '{arm}' was trained by a script of yours, whose model Lossbench does not "
            "know; allowed: an arm whose task is not 'command'"
        )
    if not outs.exist():
        raise UserError(f"{outs.folder}: arm '{arm}' is not trained yet; run `dvc repro train@{arm}`")
    seeds = json.loads((outs.folder / "arm.json").read_bytes())["seeds"]
    if seed is not None and seed not in seeds:
        raise UserError(f"--seed is {seed}; arm '{arm}' has seeds {', '.join(map(str, seeds))}")
    chosen = median_seed(outs, params) if seed is None else seed
    pack_replicate(folder, params, outs, chosen)
