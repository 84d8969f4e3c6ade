"""Hooks of the site's build: pages made from the repository, links out of docs/, formulas."""

import html
import re
import sys
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import recipes  # noqa: E402
import tutorial  # noqa: E402

# Pages of the site that are files of the repository outside docs/.
COPIED = {
    "benchmarks/index.md": "benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "results/trained.md": "RESULTS.md",
    **{
        f"models/{card.parent.name}.md": card.relative_to(ROOT).as_posix()
        for card in sorted(ROOT.glob("zoo/*/README.md"))
    },
}
_PAGE_OF = {source: uri for uri, source in COPIED.items()} | {"README.md": "index.md"}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_CELL = re.compile(r"<td( [^>]*)?>((?:<code>|<strong>)?[^<]{1,24}(?:</code>|</strong>)?)</td>")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are made: copies, tutorials with what they printed, the recipes."""
    made = {uri: (ROOT / source).read_text(encoding="utf-8") for uri, source in COPIED.items()}
    made |= {f"tutorials/{name}.md": tutorial.page(name) for name in tutorial.names()}
    made["recipes.md"] = recipes.page()
    for uri, text in made.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Points links at the site's pages; a link to a file that the site has not is its text."""
    uri = page.file.src_uri
    folder = PurePosixPath(COPIED.get(uri, f"docs/{uri}")).parent

    def relinked(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        path, mark, anchor = target.partition("#")
        if ":" in path or not path:
            return match[0]
        source = normpath(str(folder / path))
        inside = source.removeprefix("docs/") if source.startswith("docs/") else None
        goal = _PAGE_OF.get(source, inside)
        if goal is None:
            if not (ROOT / source).exists():
                raise FileNotFoundError(f"{uri} links to {target}, which is not in the repository")
            return text
        return f"{image}[{text}]({relpath(goal, str(PurePosixPath(uri).parent))}{mark}{anchor})"

    return _LINK.sub(relinked, markdown)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Formulas as MathML, which browsers draw without any script; numbers in one line."""

    def drawn(match: re.Match[str]) -> str:
        block = match[2] == "["
        formula = convert(html.unescape(match[3]).strip(), display="block" if block else "inline")
        return f'<div class="formula">{formula}</div>' if block else formula

    content = _CELL.sub(r'<td\1 class="short">\2</td>', content)
    return _FORMULA.sub(drawn, content)
