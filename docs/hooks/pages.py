"""Pages that the site has and docs/ has not: the home page, the reference, and files that pages link to.

The home page is README.md. The reference lists what each room's `__all__` says, read from the source
without importing it. A link out of docs/ (`../examples/attach.py`) leads to a page with that file, so the
same links work in the repository and on the site.
"""

from __future__ import annotations

import ast
import posixpath
import re
from functools import cache
from pathlib import Path
from typing import Any

from markdown import Extension, Markdown
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "otreg"

# Room -> modules that users call by name. Rooms with an `__all__` have its names first; the others import
# nothing by themselves.
ROOMS: dict[str, list[str]] = {
    "transport": [],
    "objectives": [],
    "forwards": [],
    "integrations": [],
    "data": ["interleave"],
    "model": ["generation"],
    "training": [],
    "prepare": ["words", "ctc_words", "plan_words", "select", "encoder_states", "program"],
    "evaluation": [
        *("evaluate", "results", "wer", "measures", "layer_gap", "divergences", "word_times"),
        *("alignments", "gates", "gate_specs", "report", "plots"),
    ],
    "transcription": [],
    "export": [],
    "serving": ["server", "app", "recognizer", "batching", "limits"],
    "synthetic": ["corpora", "corpus", "towers", "fit", "synthesize", "topics", "translation"],
    "experiment": ["runner", "definition", "reading", "programs", "extra_measures"],
}

LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
MARK = re.compile(r"^<!-- not run.*?-->\n", re.MULTILINE | re.DOTALL)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml"}


@cache
def module_names(name: str) -> dict[str, str]:
    """Public names of a module, and where each is defined; read from the source.

    Args:
        name: with dots, such as "otreg.transport".

    Returns:
        Name -> dotted path of its definition.
    """
    path = PACKAGE.parent.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    home: dict[str, str] = {}
    listed: list[str] | None = None
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            home |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets = [t.id for t in node.targets if isinstance(t, ast.Name)]
            if "__all__" in targets:
                listed = ast.literal_eval(node.value)
            home |= {target: f"{name}.{target}" for target in targets}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            home[node.target.id] = f"{name}.{node.target.id}"
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            home[node.name] = f"{name}.{node.name}"
    if listed is None:
        own = [n for n, where in home.items() if where == f"{name}.{n}"]
        documented = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        listed = [n for n in own if not n.startswith("_") and n in documented]
    return {public: home[public] for public in listed}


def introduction(name: str) -> str:
    """A module's docstring alone."""
    return f"::: {name}\n    options:\n      members: false\n      show_root_heading: false\n"


def entries(name: str, level: int) -> str:
    """A module's docstring and its public names, for mkdocstrings to fill in."""
    parts = [introduction(name)]
    for public, where in module_names(name).items():
        if public == "__version__":
            continue
        shown = f'      heading: "{public}"\n      heading_level: {level}\n'
        parts.append(f"::: {where}\n    options:\n{shown}")
    return "\n".join(parts)


def reference() -> dict[str, str]:
    """The pages of the reference: name in the site -> Markdown."""
    pages = {"reference/otreg.md": f"# otreg\n\n{home_names()}"}
    for room, inside in ROOMS.items():
        name = f"otreg.{room}"
        parts = [f"# {name}\n"]
        parts.append(entries(name, 2))
        parts += [f"## {name}.{m}\n\n{entries(f'{name}.{m}', 3)}" for m in inside]
        pages[f"reference/{room}.md"] = "\n".join(parts)
    return pages


def home_names() -> str:
    """What `import otreg` gives, with a link to where it is described; `SpeechTextPair` here."""
    rows = []
    names = {n: w for n, w in module_names("otreg").items() if n != "__version__"}
    for public, where in sorted(names.items(), key=lambda item: item[0].lower()):
        room = where.split(".")[1]
        definition = module_names(f"otreg.{room}")[public]
        rows.append(f"| [`otreg.{public}`][{definition}] | `otreg.{room}` |")
    table = "\n".join(["| name | room |", "|---|---|", *rows])
    return "\n".join([introduction("otreg"), table, "", entries("otreg.pair", 2)])


def source_of(uri: str) -> str:
    """Where a page of the site stands in the repository."""
    if uri == "index.md":
        return "README.md"
    if uri.startswith("repository/"):
        return uri.removeprefix("repository/").removesuffix(".md")
    return f"docs/{uri}"


def page_of(path: str) -> str | None:
    """The page of a file or folder of the repository; None where there is none."""
    if path == "README.md":
        return "index.md"
    full = ROOT / path
    if path.startswith("docs/"):
        inside = path.removeprefix("docs/")
        return posixpath.join(inside, "README.md") if full.is_dir() else inside
    return f"repository/{path}.md" if full.is_file() else None


def target_of(uri: str, link: str) -> str | None:
    """The file or folder of the repository that a link of a page means; None for other links."""
    if ":" in link or link.startswith("/"):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source_of(uri)), link))
    return path if not path.startswith("..") and (ROOT / path).exists() else None


def rewritten(uri: str, markdown: str) -> str:
    """A page with its links as the site has them, and without marks for the tests."""

    def replace(match: re.Match[str]) -> str:
        path = target_of(uri, match[2])
        page = None if path is None else page_of(path)
        if page is None:
            return match[0]
        return match[1] + posixpath.relpath(page, posixpath.dirname(uri) or ".") + match[3]

    return LINK.sub(replace, MARK.sub("", markdown))


def linked_files(pages: dict[str, str]) -> set[str]:
    """Files outside of docs/ that pages link to."""
    found = set()
    for uri, markdown in pages.items():
        targets = [target_of(uri, match[2]) for match in LINK.finditer(markdown)]
        found |= {path for path in targets if path is not None and not path.startswith("docs/")}
    return {path for path in found if (ROOT / path).is_file()} - {"README.md"}


def file_page(path: str) -> str:
    """A file of the repository as a page."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    return f"# {path}\n\n````{LANGUAGES.get(Path(path).suffix, 'text')}\n{text}````\n"


def pictures() -> str:
    """The gallery's pictures, where `make gallery` has drawn them."""
    found = sorted((ROOT / "docs" / "gallery").glob("*.png"))
    names = [path.stem.partition("-")[2].replace("-", " ").capitalize() for path in found]
    shown = zip(names, found, strict=True)
    return "\n".join(f"## {name}\n\n![{name}]({path.name})\n" for name, path in shown)


class NoTags(Extension):
    """In running text `<P, C>` is a product of matrices and `<bos>` a token, never a tag of HTML."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Leave inline tags as they are written."""
        md.inlinePatterns.deregister("html")


def on_config(config: Any) -> Any:
    """Read pages and docstrings without inline tags."""
    config.markdown_extensions.append(NoTags())
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that docs/ has not."""
    pages = {"index.md": (ROOT / "README.md").read_text(encoding="utf-8")}
    written = {f.src_uri: f.content_string for f in files if f.is_documentation_page()}
    more = {f"repository/{path}.md": file_page(path) for path in linked_files(pages | written)}
    for uri, content in (pages | reference() | more).items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite links, and put the pictures into the gallery."""
    uri = page.file.src_uri
    if uri == "gallery/README.md":
        markdown = markdown.replace("<!-- pictures -->", pictures())
    return rewritten(uri, markdown)
