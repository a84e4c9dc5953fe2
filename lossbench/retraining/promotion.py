"""Model versions and the two aliases: moved so that at every moment there is exactly one champion.

The alias ``champion`` is the only thing that decides what is served, and it changes in one call. Before it,
the new version says in a tag whom it replaces; after it, ``previous_champion`` follows that tag. Whatever
dies in between, :func:`settle` of the next call completes the rest.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from lossbench.errors import GateError
from lossbench.tracking.server import RefusedError

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, PREVIOUS = "champion", "previous_champion"
REPLACES = "lossbench.replaces"
KEY = "lossbench.challenger"
DECISION = "lossbench.decision"


@dataclass(frozen=True)
class Registry:
    """One registered model."""

    client: "MlflowClient"
    name: str

    def version_of(self, alias: str) -> str | None:
        """Version number that an alias names; None where it names none."""
        try:
            found = self.client.get_model_version_by_alias(self.name, alias)
        except RefusedError:  # no such model or alias
            return None
        return str(found.version)

    def tags_of(self, version: str) -> dict[str, str]:
        """Tags of a version."""
        return dict(self.client.get_model_version(self.name, version).tags)

    def register(
        self, key: str, model_id: str, run_id: str, tags: Mapping[str, str], description: str
    ) -> str:
        """Make a version of a logged model; one that an interrupted call made is taken up again.

        Args:
            key: identity of the challenger.
            model_id: of the logged model.
            run_id: of its arm.
            tags: lineage and the gate's evidence.
            description: the gate's reasoning.

        """
        try:
            self.client.get_registered_model(self.name)
        except RefusedError:  # there is none yet
            self.client.create_registered_model(self.name)
        for old in self.client.search_model_versions(f"name = '{self.name}'"):
            if old.tags.get(KEY) == key and old.status == "READY":
                return str(old.version)
        made = self.client.create_model_version(
            self.name,
            f"models:/{model_id}",
            run_id=run_id,
            tags={**tags, KEY: key},
            description=description,
            model_id=model_id,
        )
        return str(made.version)

    def settle(self) -> None:
        """Complete what an interrupted promotion left: whom the champion replaced, its tag says."""
        champion = self.version_of(CHAMPION)
        if champion is None:
            return
        former = self.tags_of(champion).get(REPLACES)
        if former is not None and self.version_of(PREVIOUS) != former:
            self.client.set_registered_model_alias(self.name, PREVIOUS, former)

    def promote(self, version: str) -> str | None:
        """Make a version the champion; the caller holds the lock.

        Returns:
            the version that it replaces.

        Raises:
            GateError: if the registry reads back another champion.

        """
        self.settle()
        former = self.version_of(CHAMPION)
        if former == version:
            return self.tags_of(version).get(REPLACES)
        if former is not None:
            self.client.set_model_version_tag(self.name, version, REPLACES, former)
        self.client.set_registered_model_alias(self.name, CHAMPION, version)
        found = self.version_of(CHAMPION)
        if found != version:
            raise GateError(f"the registry says version {found} is champion of '{self.name}', not {version}")
        self.settle()
        return former

    @contextmanager
    def folder_of(self, version: str) -> Iterator[Path]:
        """Download a version's files and give the folder with weights.safetensors, arm.json, dataset.json."""
        from mlflow.artifacts import download_artifacts

        with TemporaryDirectory() as scratch:
            root = Path(download_artifacts(f"models:/{self.name}/{version}", dst_path=scratch))
            described: dict[str, Any] = YAML(typ="safe").load((root / "MLmodel").read_text(encoding="utf-8"))
            yield root / str(described["flavors"]["python_function"]["data"])


def roll_back(registry: Registry) -> tuple[str, str]:
    """Give the former champion its place back; called twice it undoes itself.

    Returns:
        the versions: now champion, and no longer.

    Raises:
        GateError: if there is no champion, or it replaced none.

    """
    registry.settle()
    champion, former = registry.version_of(CHAMPION), registry.version_of(PREVIOUS)
    if champion is None:
        raise GateError(f"'{registry.name}' has no champion; nothing to roll back")
    if former is None or former == champion:
        raise GateError(f"version {champion} of '{registry.name}' replaced no other; nothing to roll back to")
    registry.promote(former)
    return former, champion


def evidence_tags(evidence: Mapping[str, Any]) -> dict[str, str]:
    """Write the gate's evidence as tags: split → JSON."""
    return {f"lossbench.gate.{split}": json.dumps(vars(one)) for split, one in evidence.items()}
