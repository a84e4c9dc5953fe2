"""Faults that could cost a user's own files: they stand where the chain writes, and something dies there."""

import hashlib
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks.fault_study import CLEAN, REPRO, Inject, Kind, Study, end

FILES = 20
"""Originals of each kind of fault."""
FETCH = (sys.executable, "-m", "lossbench.stages.fetch", "digits")
BESIDE = ("data/pets_raw", "models/mine", "models/digits/mine", "reports/mine", ".lossbench/mine")

MOUNTED = (
    "unshare",
    "--mount",
    "--map-root-user",
    "sh",
    "-c",
    'mount --bind "$0" "$1" && shift && exec "$@"',
)

Lay = Callable[[Study, random.Random], list[Path]]
"""Lays originals out; returns the folders they are in, and the links to them."""


def originals(folder: Path, chance: random.Random) -> Path:
    """Write a user's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        (folder / f"photo-{number}.jpg").write_bytes(chance.randbytes(1000))
    return folder


def hashes(folders: list[Path]) -> dict[Path, str]:
    """Hash the user's files, wherever a link leads."""
    found = sorted({file.resolve() for folder in folders for file in folder.rglob("photo-*.jpg")})
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


def lost(before: dict[Path, str]) -> int:
    """Count the files that are gone or changed."""
    return sum(
        not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != found
        for file, found in before.items()
    )


def take_away(folder: Path) -> None:
    """Remove the user's files, and the folders that held nothing else."""
    for file in sorted(folder.rglob("photo-*.jpg")):
        file.unlink()
    for one in sorted((folder, *folder.rglob("*")), reverse=True):
        if one.is_dir() and not one.is_symlink() and not any(one.iterdir()):
            one.rmdir()


def beside(study: Study, chance: random.Random) -> list[Path]:
    """Originals beside outs and stores."""
    return [originals(study.folder / name, chance) for name in BESIDE]


def instead(study: Study, chance: random.Random) -> list[Path]:
    """Originals in the place of an out that is not there yet."""
    name = chance.choice(["models/digits/digits-focal", "reports/evaluation/digits", "reports/index.html"])
    return [originals(study.folder / name, chance)]


def within(study: Study, chance: random.Random) -> list[Path]:
    """Originals within an out that the chain wrote."""
    folder = originals(study.folder / chance.choice(["data/digits/mine", "data/digits/train/mine"]), chance)
    return [folder]


def linked(study: Study, chance: random.Random) -> list[Path]:
    """An out, or the folder it lies in, is a link to the originals."""
    elsewhere = study.folder.with_suffix(".mine")
    link, inside = chance.choice(
        [
            ("models", "digits/digits-focal"),
            ("models/digits", "digits-focal"),
            ("models/digits/digits-focal", ""),
        ]
    )
    originals(elsewhere / inside, chance)
    place = study.folder / link
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():  # DVC leaves a .gitignore in it
        shutil.rmtree(place)
    place.symlink_to(elsewhere)
    return [place, elsewhere]


def named(study: Study, chance: random.Random) -> list[Path]:
    """What params.yaml names is, lies in or holds an out."""
    place = chance.choice(
        ["data/digits", "data/digits/train", "models/digits/digits-focal/raw", "data", "reports/evaluation"]
    )
    folder = originals(study.folder / place, chance)
    yaml = YAML()
    file = study.folder / "params.yaml"
    content = yaml.load(file.read_text(encoding="utf-8"))
    content["datasets"]["digits"]["path"] = chance.choice([place, f"{place}/photo-0.jpg"])
    with file.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)
    return [folder]


def homes(study: Study, chance: random.Random) -> list[Path]:
    """A variable of ours leads to a folder of originals."""
    folder = originals(study.folder.with_suffix(".mine"), chance)
    study.environment[chance.choice(["LOSSBENCH_HOME", "LOSSBENCH_STORE"])] = str(folder)
    return [folder]


def mounted(study: Study, chance: random.Random) -> list[Path]:
    """Originals are mounted where an out is."""
    folder = originals(study.folder.with_suffix(".mine"), chance)
    place = study.folder / chance.choice(
        ["models/digits/digits-focal", "data/digits", "reports/evaluation/digits"]
    )
    place.mkdir(parents=True, exist_ok=True)
    study.within = (*MOUNTED, str(folder), str(place))
    return [folder]


def endangering(lay: Lay) -> Inject:
    """Lay originals out, let what deletes work or be killed at a random moment, and count what is left."""

    def inject(study: Study, chance: random.Random) -> int:
        params, environment = (study.folder / "params.yaml").read_bytes(), dict(study.environment)
        folders = lay(study, chance)
        before = hashes(folders)
        for command in chance.sample([CLEAN, FETCH, REPRO], 3):
            process = study.start(*command)
            time.sleep(chance.uniform(0.2, 0.5 * study.repro_seconds))
            end(process)
        study.run(*REPRO)  # to its end, or refused
        study.run(*CLEAN)
        study.lost_originals += lost(before)
        (study.folder / "params.yaml").write_bytes(params)
        study.environment, study.within = environment, ()
        for folder in folders:  # the user takes them away: now all has to be as if nothing had been
            if folder.is_symlink():
                folder.unlink()
            else:
                take_away(folder)
        return 0

    return inject


def kinds() -> list[Kind]:
    """List the kinds of fault."""
    return [
        Kind("originals beside outs and stores", "done", endangering(beside)),
        Kind("originals in the place of an out", "ready", endangering(instead)),
        Kind("originals within an out", "done", endangering(within)),
        Kind("an out is a link to originals", "ready", endangering(linked)),
        Kind("originals are mounted on an out", "ready", endangering(mounted)),
        Kind("what params.yaml names meets an out", "done", endangering(named)),
        Kind("LOSSBENCH_HOME or _STORE holds originals", "done", endangering(homes)),
    ]
