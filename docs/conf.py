"""The site of the documentation: Sphinx with MyST and furo. ``make docs`` builds it."""

from __future__ import annotations

import os
import re
from importlib.metadata import version as installed
from logging import WARNING, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sphinx.util import logging

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS: Final = Path(__file__).parent
ROOT: Final = DOCS.parent
REPOSITORY: Final = "https://github.com/rowbell/rowbell"

project = "rowbell"
author = "the rowbell developers"
copyright = f"2026, {author}"  # noqa: A001  # Sphinx's name
release = version = installed("rowbell")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"
"""The docstrings say it in words; a union of five types does not read well in a signature."""
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"rowbell {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "")
html_theme_options = {
    "source_repository": f"{REPOSITORY}/",
    "source_branch": "main",
    "source_directory": "docs/",
}

COPIED: Final = {
    "explanation/architecture": "ARCHITECTURE.md",
    "explanation/security": "SECURITY.md",
    "explanation/the-proof": "proof/README.md",
    "reference/changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
}
"""Pages whose text is a file of the repository's, where a visitor of it looks first."""

PAGE_OF: Final = {ROOT / name: DOCS / f"{page}.md" for page, name in COPIED.items()} | {
    ROOT / "README.md": DOCS / "index.md"
}

LINK: Final = re.compile(r"(?<=\]\()(?!https?:|#)[^)\s]+(?=\))")
"""The target of a link, or of a picture, in the repository."""

logger = logging.getLogger(__name__)
getLogger("alembic").setLevel(WARNING)  # it tells of its plugins


def take_text(app: Sphinx, page: str, text: list[str]) -> None:
    """Give a page its text, with links that hold on the site."""
    source = DOCS / f"{page}.md"
    if page in COPIED:
        source = ROOT / COPIED[page]
        app.env.note_dependency(str(source))
        text[0] = source.read_text()
    text[0] = LINK.sub(lambda link: on_site(page, source, link[0]), text[0])


def on_site(page: str, source: Path, target: str) -> str:
    """Where a link of a page leads: to another page, or to a file of the repository."""
    name, _, anchor = target.partition("#")
    path = Path(os.path.normpath(source.parent / name))
    if not path.exists():
        logger.warning("%s links to %s, which does not exist", source, target, location=page)
    path = PAGE_OF.get(path, path)
    suffix = f"#{anchor}" if anchor else ""
    if path.is_relative_to(DOCS):
        return os.path.relpath(path, (DOCS / page).parent) + suffix
    kind = "tree" if path.is_dir() else "blob"
    return f"{REPOSITORY}/{kind}/main/{path.relative_to(ROOT).as_posix()}{suffix}"


MADE_BY_US: Final = re.compile(
    r"rowbell\.(\w+Error|Follow|FollowMany|Changes|Resync|WaitEnd|WatcherStatistics|TriggerStatus"
    r"|Reason|Outcome|ResyncReason|WatcherState|TriggerState|LockMode|fastapi\.(EventStream|StreamEnd)"
    r"|relay\.(RelayStatus|RelayState))"
)
"""Classes that no user calls: their pages say what they have, not how they are made."""


def signature(  # Sphinx's
    _app: Sphinx,
    _what: str,
    name: str,
    _object: object,
    _options: object,
    given: str | None,
    _: str,
) -> tuple[str, str] | None:
    """The signature of an entry; ``None`` leaves it as it is."""
    return ("", "") if given and MADE_BY_US.fullmatch(name) else None


def setup(app: Sphinx) -> None:
    """Sphinx calls it."""
    app.connect("source-read", take_text)
    app.connect("autodoc-process-signature", signature)
