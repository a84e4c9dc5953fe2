"""Faults that could cost a user's own files: they stand where the chain writes, and something dies there."""

import hashlib
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.fault_study import CLEAN, REPRO, Inject, Kind, Study, end

FILES = 20
"""Originals of each kind of fault."""
FETCH = (sys.executable, "-m", "stages.fetch", "digits")
BESIDE = ("data/pets_raw", "models/mine", "models/digits/mine", "reports/mine", ".lossbench/mine")

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


def endangering(lay: Lay) -> Inject:
    """Lay originals out, let what deletes work or be killed at a random moment, and count what is left."""

    def inject(study: Study, chance: random.Random) -> int:
        folders = lay(study, chance)
        before = hashes(folders)
        for command in chance.sample([CLEAN, FETCH, REPRO], 3):
            process = study.start(*command)
            time.sleep(chance.uniform(0.2, 0.5 * study.repro_seconds))
            end(process)
        study.run(*REPRO)  # to its end, or refused
        study.run(*CLEAN)
        study.lost_originals += lost(before)
        for folder in folders:  # the user takes them away: now all has to be as if nothing had been
            if folder.is_symlink():
                folder.unlink()
            elif folder.exists():
                shutil.rmtree(folder)
        return 0

    return inject


def kinds() -> list[Kind]:
    """List the kinds of fault."""
    return [
        Kind("originals beside outs and stores", "done", endangering(beside)),
        Kind("originals in the place of an out", "ready", endangering(instead)),
        Kind("originals within an out", "done", endangering(within)),
        Kind("an out is a link to originals", "ready", endangering(linked)),
    ]
