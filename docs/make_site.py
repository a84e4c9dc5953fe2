"""Builds the documentation as a website: `make site`, that is `python docs/make_site.py build/site`.

Pages are taken as they stand in the repository, at the same places, so that their links among one another
hold. What they link to besides (code, params, results) comes along as files to download, folders as lists of
what is in them. Sphinx then builds them strictly: a link or an anchor that leads nowhere ends it. The report
of the last `make repro` comes along where there is one. What was built is looked through at last: no page may
ask another server for anything.
"""

import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ROOT / "docs/site"
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
FENCED = re.compile(r"^( *)```.*?^\1```$", re.DOTALL | re.MULTILINE)
ASKS = re.compile(
    r"""<(?:script|img|iframe|source|video|embed)\b[^>]*\bsrc=["'](?:https?:)?//"""
    r"""|<link\b(?=[^>]*\brel=["'](?:stylesheet|preload|prefetch|preconnect|icon|modulepreload))[^>]*\bhref=["'](?:https?:)?//"""
    r"""|@import\s+(?:url\()?["']?(?:https?:)?//|\burl\(["']?(?:https?:)?//"""
)
"""What makes a browser ask another server; a link that a reader may follow does not."""
REPORT = """
<a href="reports/index.html">The report of the default comparison</a> is what `make repro` wrote.
"""


def pages() -> list[Path]:
    """List the pages, relative to the repository."""
    files = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        ROOT / "plugins/README.md",
        ROOT / "reports/report.md",
    ]
    return sorted(one.relative_to(ROOT) for one in files)


def listing(folder: Path) -> str:
    """Say what is in a folder of the repository: files, and the first sentence of modules."""
    lines = ["---", "orphan: true", "---", "", f"# {folder.relative_to(ROOT)}", ""]
    for file in sorted(folder.iterdir()):
        if file.name.startswith((".", "__pycache__")):
            continue
        text = file.read_text(encoding="utf-8") if file.suffix == ".py" else ""
        told = re.match(r'"""(.+?)(?:"""|\n)', text)
        lines.append(f"- `{file.name}`{': ' + told[1] if told else ''}")
    return "\n".join(lines) + "\n"


def staged(page: Path, source: Path) -> str:
    """Return a page's text as the site has it, and bring what it links to.

    Args:
        page: relative to the repository.
        source: the folder that Sphinx reads.

    Raises:
        SystemExit: if a link leads nowhere.

    """

    def bring(found: re.Match[str]) -> str:
        target = Path(os.path.normpath(ROOT / page.parent / found["path"]))
        anchor = found["anchor"] or ""
        inside = target.relative_to(ROOT)
        if target.is_dir():
            _write(source / inside / "index.md", listing(target))
            return f"{found['path'].rstrip('/')}/index.md"
        if not target.is_file():
            sys.exit(f"{page}: {found['path']} leads nowhere")
        if target.suffix == ".ipynb":
            return f"{found['path'].removesuffix('.ipynb')}.md{anchor}"
        if inside not in pages():
            (source / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(target, source / inside)
        return found[0]

    text, out, end = (ROOT / page).read_text(encoding="utf-8"), [], 0
    for block in FENCED.finditer(text):
        out += [LINK.sub(bring, text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*out, LINK.sub(bring, text[end:])])


def notebook(content: dict[str, Any], name: str, folder: Path) -> str:
    """Turn a notebook that was run into Markdown: text, code, and what the code put out.

    Args:
        content: of the .ipynb file, format 4.
        name: of the files that its pictures become.
        folder: where these are written.

    """
    parts = []
    for number, cell in enumerate(content["cells"]):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for place, output in enumerate(cell.get("outputs", ())):
            parts.append(_shown(output, f"{name}-{number}-{place}", folder))
    return "\n\n".join(one for one in parts if one) + "\n"


def _shown(output: dict[str, Any], name: str, folder: Path) -> str:
    """Return one output of a cell: the richest form that needs no script."""
    data = output.get("data", {})
    for kind, ending in (("image/svg+xml", "svg"), ("image/png", "png")):
        if kind in data:
            content = "".join(data[kind])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.{ending}").write_bytes(
                content.encode() if ending == "svg" else base64.b64decode(content)
            )
            return f"![what the cell above draws]({name}.{ending})"
    if "text/html" in data and "<script" not in "".join(data["text/html"]):
        return "".join(data["text/html"])
    text = "".join(output.get("text", data.get("text/plain", ())))
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def stage(source: Path) -> None:
    """Lay out all that Sphinx reads."""
    for page in pages():
        _write(source / page, staged(page, source))
    for file in ROOT.glob("docs/*.ipynb"):
        content = json.loads(file.read_text(encoding="utf-8"))
        _write(source / "docs" / f"{file.stem}.md", notebook(content, file.stem, source / "docs"))
    index = (SETTINGS / "index.md").read_text(encoding="utf-8")
    if (ROOT / "reports/index.html").is_file():
        index = index.replace("\n<!-- report -->\n", REPORT)
    named = set(re.findall(r"^[\w/-]+$", index, re.MULTILINE))
    rest = sorted({str(one.relative_to(source).with_suffix("")) for one in source.glob("docs/*.md")} - named)
    _write(source / "index.md", index.replace("<!-- rest -->", "\n".join(rest)))


def askers(site: Path) -> list[str]:
    """Name the files of a site that would have a browser ask another server."""
    files = [one for one in sorted(site.rglob("*")) if one.suffix in (".html", ".css")]
    return [str(one.relative_to(site)) for one in files if ASKS.search(one.read_text(encoding="utf-8"))]


def main() -> None:
    """Build the site."""
    parser = argparse.ArgumentParser(description="Build the documentation as a website.")
    parser.add_argument("to", type=Path, help="folder of the site; it is replaced")
    to = parser.parse_args().to
    source = to.with_name(f"{to.name}-source")
    for folder in (to, source):
        shutil.rmtree(folder, ignore_errors=True)
    stage(source)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-c", str(SETTINGS)]
    built = subprocess.run([*command, str(source), str(to)], check=False)
    if built.returncode:
        sys.exit(built.returncode)
    report = ROOT / "reports/index.html"
    if report.is_file():
        shutil.copy(report, to / "reports/index.html")
    if asking := askers(to):
        sys.exit(f"these pages would ask another server: {', '.join(asking)}")
    print(to / "index.html")


if __name__ == "__main__":
    main()
