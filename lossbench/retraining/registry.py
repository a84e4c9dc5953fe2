"""Model versions and the two aliases: moved so that at every moment there is exactly one champion.

The alias ``champion`` is the only thing that decides what is served, and it changes in one call. Before it,
the version that takes over says in tags whom it replaces and what the attempt's row is; after it, the alias
``previous_champion`` follows. Whatever dies in between, :meth:`Registry.settle` of the next call completes
the rest, the record included.

MLflow moves an alias without asking what it points to. So a promotion states whom it was judged against,
asks right before, reads back right after, and looks whether another promoter claimed the place meanwhile:
of two of ours the one that registered first stays, and the other is told so. After a claim the champion is
read, after a move the claims: whoever comes second sees the other. What remains: somebody else (the MLflow
UI, a script) who moves the alias in the milliseconds between our question and our move is overwritten, and
nothing in MLflow would tell.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lossbench.errors import GateError
from lossbench.retraining.contents import WEIGHTS, expect_contents
from lossbench.tracking.server import AbsentError, NoFileError, PresentError, ServerGoneError, files_at

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHAMPION, PREVIOUS = "champion", "previous_champion"
TRIES = 5
"""Times that a champion is settled anew when another takes its place meanwhile."""
REPLACES = "lossbench.replaces"
"""Whom a version replaces, or is about to."""
ATTEMPT = "lossbench.attempt"
"""The row of the record by which a version becomes champion, as JSON."""
PROMOTED = "lossbench.promoted"
"""Number of the promotion by which a version became champion: 1, 2, …"""
ROLLED_BACK = "lossbench.rolled_back"
"""Why and when a version was taken out of service: it is refused until somebody allows it."""
KEY = "lossbench.challenger"
DECISION = "lossbench.decision"
FILES = "lossbench.files"
"""SHA-256 of what a version's answers depend on, as JSON: name → digest."""
NONE = "none"
"""For ``REPLACES``: there was no champion."""


class OvertakenError(GateError):
    """Somebody else moved the alias while the challenger was being judged."""


class UnsettledError(GateError):
    """The registry was asked to move the alias, and does not say whether it did."""


@dataclass(frozen=True)
class Standing:
    """How the registry stood when a challenger was judged.

    Attributes:
        champion: version that the alias names; None where there is none.
        former: version that ``previous_champion`` names.
        versions: tags by version, of all versions.

    """

    champion: str | None
    former: str | None
    versions: Mapping[str, Mapping[str, str]]

    @property
    def claims(self) -> set[str]:
        """Versions that replaced the champion, or were about to."""
        return {one for one, tags in self.versions.items() if tags.get(REPLACES) == (self.champion or NONE)}

    def refused(self, key: str, weights: str) -> tuple[str, str] | None:
        """Find a version that was rolled back and is this challenger: by its key, or weights to the bit."""
        for version, tags in self.versions.items():
            if ROLLED_BACK not in tags:
                continue
            files = digests_of(version, tags)
            if tags.get(KEY) == key or files.get(WEIGHTS) == weights:
                return version, tags[ROLLED_BACK]
        return None


@dataclass(frozen=True)
class Registry:
    """One registered model."""

    client: "MlflowClient"
    name: str

    def standing(self) -> Standing:
        """Ask who is champion, and what all versions say.

        Raises:
            ServerGoneError: for every answer but a whole one that speaks of this model; that there is no
                champion, or no model, MLflow has to say twice, in two ways.

        """
        model = self._model()
        if model is None:
            return Standing(None, None, {})
        aliases = {alias: self._number(version) for alias, version in dict(model.aliases).items()}
        champion = aliases.get(CHAMPION)
        if champion is None:
            self._expect_none(CHAMPION)
        versions = self._versions(any(model.latest_versions) or champion is not None)
        if champion is not None and champion not in versions:
            raise self._nonsense(f"version {champion} is champion and is not listed")
        return Standing(champion, aliases.get(PREVIOUS), versions)

    def champion(self) -> str | None:
        """Ask who is champion alone."""
        return self.version_of(CHAMPION)

    def aliases(self) -> set[str]:
        """Ask which aliases there are; none where there is no model."""
        model = self._model()
        return set() if model is None else set(model.aliases)

    def version_of(self, alias: str) -> str | None:
        """Ask which version an alias names; None where it names none."""
        model = self._model()
        found = None if model is None else dict(model.aliases).get(alias)
        if found is not None:
            return self._number(found)
        if model is not None:
            self._expect_none(alias)
        return None

    def mark_of(self, version: str) -> str:
        """Ask what tells a version from another of its number: a model made anew begins at 1 again."""
        found = self.client.get_model_version(self.name, version)
        if self._checked(found) != version:
            raise self._nonsense(f"asked for version {version}, it answers with {found.version}")
        return f"{found.creation_timestamp} {found.source}"

    def _model(self) -> "RegisteredModel | None":
        try:
            model = self.client.get_registered_model(self.name)
        except AbsentError as error:
            if self.name not in str(error):
                raise self._nonsense(str(error)) from None
            if list(self.client.search_registered_models(f"name = '{self.name}'")):
                raise self._nonsense("it says that the model does not exist, and lists it") from None
            return None
        if getattr(model, "name", None) != self.name:
            raise self._nonsense(f"asked for this model, it answers with {getattr(model, 'name', None)!r}")
        return model

    def _expect_none(self, alias: str) -> None:
        try:
            found = self.client.get_model_version_by_alias(self.name, alias)
        except AbsentError as error:
            if alias not in str(error):
                raise self._nonsense(str(error)) from None
            return
        raise self._nonsense(f"it lists no {alias}, and answers that version {found.version} is it")

    def _versions(self, some: bool) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        token = None
        while True:
            page = self.client.search_model_versions(f"name = '{self.name}'", page_token=token)
            found |= {self._checked(one): dict(one.tags) for one in page}
            token = page.token
            if not token:
                break
        if some and not found:
            raise self._nonsense("it has versions, and lists none")
        return found

    def _checked(self, version: "ModelVersion") -> str:
        if version.name != self.name:
            raise self._nonsense(f"a version of {version.name!r} was listed")
        return self._number(version.version)

    def _number(self, version: object) -> str:
        if not str(version).isdecimal():
            raise self._nonsense(f"a version is called {version!r}")
        return str(version)

    def _nonsense(self, what: str) -> ServerGoneError:
        return ServerGoneError(f"the registry's answer about '{self.name}' makes no sense: {what}")

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
        if self._model() is None:
            with suppress(PresentError):  # another made it, or our first try did and its answer was lost
                self.client.create_registered_model(self.name)
        for number, old in self.standing().versions.items():
            if old.get(KEY) == key and self.client.get_model_version(self.name, number).status == "READY":
                return number
        made = self.client.create_model_version(
            self.name,
            f"models:/{model_id}",
            run_id=run_id,
            tags={**tags, KEY: key},
            description=description,
            await_creation_for=0,
            model_id=model_id,
        )
        number = self._checked(made)
        if self.standing().versions.get(number, {}).get(KEY) != key:
            raise self._nonsense(f"version {number} was made and is not listed as ours")
        return number

    def settle(self, place: str | None = None) -> dict[str, str] | None:
        """Complete what an interrupted promotion or rollback left; whom the champion replaced, its tags say.

        A champion that was put in place of a newer one by hand (in the MLflow UI) took it out of service.

        Args:
            place: the version that is known to be champion; another that the alias names is about to leave
                it again, and nothing is said of that one.

        Returns:
            the row of the record by which the champion became champion, where it says so.

        """
        for _ in range(TRIES):
            now = self.standing()
            row = self._settle(now) if place in (None, now.champion) else None
            # One that shares no lock with us may have moved the alias before we wrote the other.
            if self.champion() == now.champion and place in (None, now.champion):
                break
        return row

    def _settle(self, now: Standing) -> dict[str, str] | None:
        champion = now.champion
        if champion is None:
            return None
        tags = now.versions[champion]
        former = tags.get(REPLACES, NONE)
        if former in now.versions and now.former != former:  # else there was none, or it was deleted since
            self.client.set_registered_model_alias(self.name, PREVIOUS, former)
        if ROLLED_BACK in tags:  # it serves: somebody wants it, or the rollback never came about
            self.client.delete_model_version_tag(self.name, champion, ROLLED_BACK)
        numbers = {one: tags.get(PROMOTED, "") for one, tags in now.versions.items()}
        promotions = {one: int(number) for one, number in numbers.items() if number.isdecimal()}
        last = max(promotions, key=lambda one: promotions[one], default=None)
        if last != champion:
            if last is not None and int(last) > int(champion):
                self._mark(last, now.versions[last], f"the alias was moved to version {champion}")
            number = str(max(promotions.values(), default=0) + 1)
            self.client.set_model_version_tag(self.name, champion, PROMOTED, number)
        row = _object(tags.get(ATTEMPT, ""))
        return row if row is not None and row.get("version") == champion else None

    def _mark(self, version: str, tags: Mapping[str, str], why: str) -> None:
        if ROLLED_BACK not in tags:
            when = datetime.now(UTC).isoformat(timespec="seconds")
            self.client.set_model_version_tag(self.name, version, ROLLED_BACK, f"{why} at {when}")

    def allow(self, version: str) -> None:
        """Let a version in again that was rolled back.

        Raises:
            GateError: if there is no such version, or it is not refused.

        """
        found = self.standing().versions
        if version not in found:
            raise GateError(
                f"'{self.name}' has no version {version}; there are: {', '.join(found) or 'none'}"
            )
        if ROLLED_BACK not in found[version]:
            raise GateError(f"version {version} of '{self.name}' is not refused; nothing to allow")
        self.client.delete_model_version_tag(self.name, version, ROLLED_BACK)

    def take_over(self, version: str, judged: Standing, row: Mapping[str, str]) -> None:
        """Make a version the champion; the caller holds the lock.

        Args:
            version: of the challenger.
            judged: how the registry stood when the challenger was judged.
            row: of the record; completed from the registry if we die before it is written.

        Raises:
            OvertakenError: the champion is no longer the one that it was judged against.
            UnsettledError: it is not known whether the alias moved.
            ServerGoneError: the alias did not move.

        """
        if version == judged.champion:  # an interrupted call did it: a champion replaces not itself
            self.settle()
            return
        self._expect(version, judged.champion)
        self._claim(version, judged, {ATTEMPT: json.dumps(dict(row))})
        self._enter(version, judged)
        place = self._agree(version, judged)
        if place != version:
            self._concede(version, place, judged)
        with suppress(ServerGoneError):  # there is one champion; the next call completes the rest
            self.settle(place)
        if place != version:
            raise OvertakenError(
                f"version {place} of '{self.name}' was promoted by another at the same moment, "
                "and stays champion"
            )

    def _agree(self, version: str, judged: Standing) -> str:
        """Move the alias until it names whom the claims say: the version that registered first."""
        place = version
        for _ in range(TRIES):
            now = self._point(version, place, judged)
            place = min({version} | self._claimants(judged, now), key=int)
            if now.champion == place:
                return place
        raise UnsettledError(
            f"whether version {version} stays champion of '{self.name}' is not known: another promoter "
            f"took the place {TRIES} times over; the next call reads the registry and completes this row"
        )

    def _claim(self, version: str, judged: Standing, more: Mapping[str, str]) -> None:
        for key, value in {REPLACES: judged.champion or NONE, **more}.items():
            self.client.set_model_version_tag(self.name, version, key, value)

    def _claimants(self, judged: Standing, now: Standing) -> set[str]:
        """Versions that claim the place since the judging."""
        place = judged.champion or NONE
        return {one for one, tags in now.versions.items() if tags.get(REPLACES) == place} - judged.claims

    def _enter(self, version: str, judged: Standing) -> None:
        """Go on if nobody took the place before our claim stood; take the claim back otherwise.

        Who reads another champion here, after its claim was written, may have been read by that champion's
        promoter, which then leaves the place to us: so the claim is taken back, and the champion asked again.
        """
        for _ in range(TRIES):
            try:
                self._expect(version, judged.champion, version)
            except OvertakenError:
                self.client.delete_model_version_tag(self.name, version, REPLACES)
                if self.champion() != version:
                    raise
                self._claim(version, judged, {})
            else:
                return

    def _expect(self, version: str, *allowed: str | None) -> None:
        found = self.champion()
        if found not in allowed:
            raise OvertakenError(
                f"{_named(found)} became champion of '{self.name}' while version {version} was being judged "
                f"against {_named(allowed[0])}; the next retraining judges anew"
            )

    def _point(self, version: str, place: str, judged: Standing) -> Standing:
        """Move the alias to ``place``; give what the registry says then.

        Raises:
            OvertakenError: it names a version of somebody who makes no claims.
            UnsettledError: it does not say.

        """
        refusal: Exception | None = None
        try:
            self.client.set_registered_model_alias(self.name, CHAMPION, place)
        except Exception as error:  # of any kind: whether the alias moved, only reading it tells
            refusal = error
        try:
            now = self._still()
        except Exception as error:  # of any kind: see above
            raise UnsettledError(
                f"whether version {version} became champion of '{self.name}' is not known "
                f"({refusal or error}); the next call reads the registry and completes this row"
            ) from error
        if now.champion in {version, place} | self._claimants(judged, now):
            return now
        raise refusal or OvertakenError(
            f"{_named(now.champion)} became champion of '{self.name}' at the same moment as version {version}"
        )

    def _still(self) -> Standing:
        """Ask for champion and claims until both are of one moment: they are answers to two questions."""
        for _ in range(TRIES):
            now = self.standing()
            if self.champion() == now.champion:
                break
        return now

    def _concede(self, version: str, rival: str, judged: Standing) -> None:
        """Leave the place to a promoter that shares no lock with us and registered first."""
        self._claim(rival, judged, {})
        self.client.delete_model_version_tag(self.name, version, REPLACES)

    def roll_back(self, row: Mapping[str, str]) -> tuple[str, str]:
        """Give the former champion its place back; called twice it undoes itself.

        The version that leaves is marked: it is refused until somebody allows it.

        Args:
            row: of the record, but for the versions.

        Returns:
            the versions: now champion, and no longer.

        Raises:
            GateError: if there is no champion, or it replaced none.

        """
        self.settle()
        now = self.standing()
        champion, former = now.champion, now.former
        if champion is None:
            raise GateError(
                f"'{self.name}' has no champion; nothing to roll back: `lossbench retrain` makes the first"
            )
        if former is None or former == champion or former not in now.versions:
            raise GateError(f"version {champion} of '{self.name}' replaced no other; nothing to roll back to")
        self._mark(champion, now.versions[champion], f"rolled back to version {former}")
        reason = f"rolled back by hand from version {champion}"
        self.take_over(former, now, {**row, "reason": reason, "version": former, "champion": former})
        return former, champion

    @contextmanager
    def folder_of(self, version: str) -> Iterator[Path]:
        """Download a version's files and give the folder with weights.safetensors, arm.json, dataset.json.

        Raises:
            GateError: if they are not what was promoted, or not there.

        """
        with TemporaryDirectory() as scratch:
            yield self.download(version, Path(scratch))

    def download(self, version: str, into: Path) -> Path:
        """Download a version's files; see :meth:`folder_of`."""
        found = self.standing().versions
        if version not in found:
            raise GateError(
                f"'{self.name}' has no version {version}; there are: {', '.join(found) or 'none'}"
            )
        return download(f"models:/{self.name}/{version}", into, digests_of(version, found[version]))


def digests_of(version: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Read a version's digests from its tags; empty for one of a time when none were written.

    Raises:
        GateError: somebody changed the tag, and it says nothing any more.

    """
    found = _object(tags.get(FILES, "{}"))
    if found is None:
        raise GateError(f"the tag {FILES} of version {version} cannot be read; put it right, or roll back")
    return {str(name): str(digest) for name, digest in found.items()}


def _object(text: str) -> dict[str, Any] | None:
    """Read a tag's JSON object; None where it is none: anybody may change tags."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def download(address: str, into: Path, said: Mapping[str, str]) -> Path:
    """Download a model; give the folder with a replicate's files, held against the digests in its tags.

    Raises:
        GateError: if they are not what was promoted, or not there.
        ServerGoneError: the server does not answer, or with nonsense.

    """
    stored = files_at(address)  # its code, hundreds of files, stays there
    try:
        described: dict[str, Any] = YAML(typ="safe").load(
            Path(stored.download_artifacts("MLmodel", str(into))).read_text(encoding="utf-8")
        )
        data = str(described["flavors"]["python_function"]["data"])
        folder = Path(stored.download_artifacts(data, str(into)))
    except (NoFileError, AbsentError) as error:
        raise GateError(f"{address}: its files are not there ({error})") from None
    except (OSError, UnicodeDecodeError, YAMLError, KeyError, TypeError) as error:
        raise GateError(f"{address}: its MLmodel cannot be read ({type(error).__name__})") from None
    expect_contents(folder, said, address)
    return folder


def _named(version: str | None) -> str:
    return "nobody" if version is None else f"version {version}"


def evidence_tags(evidence: Mapping[str, Any]) -> dict[str, str]:
    """Write the gate's evidence as tags: split → JSON."""
    return {f"lossbench.gate.{split}": json.dumps(vars(one)) for split, one in evidence.items()}
