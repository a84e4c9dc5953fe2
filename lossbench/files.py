"""Files that appear whole or not at all."""

import os
import shutil
from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Write a text: beside its place first, then into it; its bytes are on the disk before that."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    with part.open("w", encoding="utf-8", newline="") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give a file of ours another name, which takes no room; or copy it where there are no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
