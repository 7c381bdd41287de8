"""The site of the docs: it builds without a warning, points to nothing on the network, and has every page."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent / "evaluation"))

from synthetic import make_results

ROOT = Path(__file__).parents[1]
ROOMS = [
    "otreg",
    "transport",
    "objectives",
    "forwards",
    "integrations",
    "data",
    "model",
    "training",
    "transcription",
    "export",
]


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


PAGES = module(ROOT / "docs" / "hooks" / "pages.py")
GALLERY = module(ROOT / "docs" / "gallery.py")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


class Fetched(HTMLParser):
    """Addresses that a browser fetches to show a page; what a reader may click on is none."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "a":
            names = ("src", "href", "srcset", "data", "poster")
            self.addresses += [value or "" for name, value in attrs if name in names]
        assert dict(attrs).get("class") != "mermaid"  # the theme would fetch a package for it


def test_the_site_points_to_nothing_on_the_network(site: Path) -> None:
    away = re.compile(r"^(\w+:)?//")
    for path in site.rglob("*.html"):
        found = Fetched()
        found.feed(path.read_text(encoding="utf-8"))
        assert not [a for a in found.addresses if away.match(a)], path
    for path in site.rglob("*.css"):
        styles = path.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import)\s*[\"']?(\w+:)?//", styles), path


def test_a_page_that_fetches_would_be_noticed() -> None:
    found = Fetched()
    found.feed('<a href="https://arxiv.org">x</a><script src="//cdn.org/a.js"></script>')
    assert found.addresses == ["//cdn.org/a.js"]


def test_every_page_of_docs_is_on_the_site(site: Path) -> None:
    for path in (ROOT / "docs").rglob("*.md"):
        inside = path.relative_to(ROOT / "docs").as_posix().replace("README.md", "index.md")
        assert (site / inside).with_suffix(".html").is_file(), inside
    assert "Use the loss in your own loop" in (site / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("room", ROOMS)
def test_the_reference_has_every_public_name(site: Path, room: str) -> None:
    name = room if room == "otreg" else f"otreg.{room}"
    page = (site / "reference" / f"{room}.html").read_text(encoding="utf-8")
    for public in importlib.import_module(name).__all__:
        if public != "__version__":
            assert re.search(rf"(>|otreg\.){public}</", page), f"{name}.{public}"


def test_docstrings_are_in_order(caplog: pytest.LogCaptureFixture) -> None:
    """Of the whole package, also of what the reference leaves out: every argument is one, and has a type."""
    import griffe

    def parse(thing: griffe.Object) -> None:
        for member in thing.members.values():
            if isinstance(member, griffe.Object):
                if member.docstring is not None:
                    member.docstring.parse("google")
                parse(member)

    fields = module(ROOT / "docs" / "hooks" / "fields.py").Fields()
    extensions = griffe.load_extensions(fields)
    package = griffe.load("otreg", search_paths=[ROOT / "src"], extensions=extensions)
    assert isinstance(package, griffe.Object)
    parse(package)
    assert [record.getMessage() for record in caplog.records] == []
    wrong = 'def f(a: int):\n    """Do.\n\n    Args:\n        b: no such argument.\n    """\n'
    parse(griffe.visit("wrong", Path("wrong.py"), wrong))
    assert "'b' does not appear" in caplog.text


def test_parameters_have_their_types(site: Path) -> None:
    page = (site / "reference" / "training.html").read_text(encoding="utf-8")
    start = page.index('id="otreg.training.config.StageConfig"')
    shown = re.sub(r"<[^>]+>|\s+", " ", page[start : start + 20_000])
    assert re.search(r"learning_rate .{0,60}Annotated", shown)


def test_products_in_angle_brackets_are_no_tags(site: Path) -> None:
    page = (site / "reference" / "transport.html").read_text(encoding="utf-8")
    assert "&lt;P, C&gt; + epsilon KL" in page


def test_no_mark_for_the_tests_is_on_the_site(site: Path) -> None:
    assert not [p for p in site.rglob("*.html") if "<!-- not run" in p.read_text(encoding="utf-8")]


def test_links_lead_where_the_repository_says() -> None:
    text = (
        "[a](../examples/attach.py) [b](data.md#audio) [c](https://x.org) "
        "[d](systems/) [e](../README.md#x)"
    )
    expected = (
        "[a](repository/examples/attach.py.md) [b](data.md#audio) [c](https://x.org) "
        "[d](systems/README.md) [e](index.md#x)"
    )
    assert PAGES.rewritten("training.md", text) == expected
    assert PAGES.rewritten("index.md", "[a](docs/data.md)") == "[a](data.md)"
    assert PAGES.rewritten("recipes/lora.md", "[a](../attach.md)") == "[a](../attach.md)"
    gone = "[a](nowhere.md)"  # left for mkdocs to warn of
    assert PAGES.rewritten("training.md", gone) == gone


def test_the_gallery_is_drawn_from_results_and_put_on_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.png").touch()
    drawn = GALLERY.draw(make_results(), tmp_path)
    assert [path.name for path in drawn] == sorted(path.name for path in tmp_path.iterdir())
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    names = {path.stem.partition("-")[2] for path in drawn}
    assert {"word-error-rate-by-corpus", "ratio-to-base", "gap-measures"} <= names
    folder = tmp_path / "docs" / "gallery"
    folder.mkdir(parents=True)
    drawn[0].rename(folder / drawn[0].name)
    monkeypatch.setattr(PAGES, "ROOT", tmp_path)
    assert PAGES.pictures().splitlines()[2] == f"![Word error rate by corpus]({drawn[0].name})"


def test_without_a_demo_the_gallery_says_how_to_draw_it() -> None:
    page = (ROOT / "docs" / "gallery" / "README.md").read_text(encoding="utf-8")
    assert "make gallery RESULTS=" in page
    assert "<!-- pictures -->" in page
