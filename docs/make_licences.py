"""Writes docs/licences.md from requirements.lock: `python docs/make_licences.py` (`--check` only compares).

What each package says of itself stands in its installed metadata; who brings it, in the lock's own comments.
"""

import re
import sys
from collections.abc import Mapping
from importlib.metadata import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)")
BROUGHT_BY = re.compile(r"^    # +(?:via )?([A-Za-z0-9._\[\]-]+(?: .*)?)$")
COPYLEFT = re.compile(r"GPL|MPL|EPL|General Public|Mozilla Public|Eclipse Public")
SILENT = {  # no licence in their metadata; read in their own files
    "cuda-toolkit": "none of its own: an empty package that names NVIDIA's, under NVIDIA's terms",
    "huey": "MIT",
    "skops": "MIT",
}
TOLD: Mapping[str, str] = {
    "pygit2": "GPL-2.0 with a linking exception: who links to it unchanged is bound by nothing of it. "
    "scmrepo, DVC's door to git, imports it, in DVC's processes only; nothing of Lossbench imports it.",
    "grandalf": "GPL-2.0 or EPL-1.0, at the user's choice; EPL-1.0 is chosen here. `dvc dag` draws with it, "
    "on the screen; no stage of the chain, and nothing of Lossbench, imports it.",
    "asyncssh": "EPL-2.0 or GPL-2.0-or-later, at the user's choice; EPL-2.0 is chosen here. scmrepo imports "
    "it for git over ssh.",
    "dulwich": "Apache-2.0 or GPL-2.0-or-later, at the user's choice; Apache-2.0 is chosen here. scmrepo "
    "reads git with it.",
    "certifi": "MPL-2.0: a list of certificates, used unchanged.",
    "orjson": "MPL-2.0 with Apache-2.0 or MIT: used unchanged, as a compiled module.",
    "pathspec": "MPL-2.0: used unchanged; DVC matches `.dvcignore` with it.",
    "shtab": "MPL-2.0: used unchanged; DVC completes its command line with it.",
    "tqdm": "MPL-2.0 and MIT: used unchanged; imported by the training library for its bars.",
}
"""Every package with a copyleft licence: which, and what of it touches us. A test holds it complete."""
INTRODUCTION = """# Licences of what Lossbench stands on

Lossbench is under Apache-2.0 ([LICENSE](../LICENSE)). It contains no code of these packages: `make setup`
fetches them, pinned by hash in `requirements.lock`, from which this page is made
(`python docs/make_licences.py`). Who hands an environment or an image on, hands these packages on, under
their licences.

## Copyleft among them

Nothing that Lossbench distributes is linked with a package under the GPL. These have a licence of that
family, or one that asks for changes to its own files to be given back:

"""


def pinned() -> dict[str, tuple[str, list[str]]]:
    """Read the lock: name → version, and who brings it."""
    found: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if start := PINNED.match(line):
            name = start[1]
            found[name] = (start[2], [])
        elif name and (via := BROUGHT_BY.match(line)) and via[1] != "via":
            found[name][1].append(via[1].removeprefix("-r "))
    return found


def licence(name: str) -> str:
    """Read what a package says of itself: expression, else field, else classifiers."""
    about = metadata(name)
    expression = about.get("License-Expression")
    stated = [line.strip() for line in str(about.get("License") or "").splitlines() if line.strip()][:1]
    classed = [
        one.rpartition("::")[2].strip()
        for one in about.get_all("Classifier") or []
        if one.startswith("License ::") and not one.endswith("OSI Approved")
    ]
    short = [one for one in stated if len(one) <= 60 and not one.startswith("Copyright")]
    said = expression or (short[0] if short else ", ".join(classed))
    return str(said or SILENT.get(name, ""))


def copyleft(packages: Mapping[str, object]) -> list[str]:
    """Name the packages under a licence of the GPL's, the EPL's or the MPL's family."""
    return [name for name in packages if COPYLEFT.search(licence(name))]


def page() -> str:
    """Write the page."""
    packages = pinned()
    told = [f"- **{name}**: {TOLD[name]}" for name in copyleft(packages)]
    rows = [
        f"| {name} | {version} | {licence(name).replace('|', 'or')} | {', '.join(via[:3])} |"
        for name, (version, via) in packages.items()
    ]
    head = "| package | version | licence | asked for by |\n|---|---|---|---|"
    return INTRODUCTION + "\n".join([*told, "\n## All of them\n", head, *rows]) + "\n"


if __name__ == "__main__":
    text = page()
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.read_text(encoding="utf-8") == text else f"{PAGE}: run `python {__file__}`")
    PAGE.write_text(text, encoding="utf-8")
