"""The checklist of a release. ``make release`` builds and tests the wheel, then runs this.

It changes and publishes nothing: it says what is missing. With ``TAG=v1.2.3``, as in the workflow
that publishes, the tag must be there; without it, it must not.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
SCHEMA = ROOT / "src" / "rowbell" / "_watch" / "database" / "schema.py"


def git(*arguments: str) -> str:
    """What git prints."""
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.strip()


def checklist() -> Iterator[tuple[bool, str, str]]:
    """Each point: whether it is done, what it is, and what to do."""
    tag, today = os.environ.get("TAG"), f"{datetime.now(UTC):%Y-%m-%d}"
    changelog = (ROOT / "CHANGELOG.md").read_text()
    [(newest, date), *_] = re.findall(r"^## ([\d.]+), (.*)$", changelog, re.MULTILINE)
    versions = (ROOT / "docs" / "reference" / "versions.md").read_text()
    [schema] = re.findall(r"^SCHEMA_VERSION: Final = (\d+)$", SCHEMA.read_text(), re.MULTILINE)
    minor = VERSION.rpartition(".")[0]
    built = sorted(path.name for path in (ROOT / "dist").glob("rowbell-*"))
    tags = git("tag", "--list", f"v{VERSION}").split()

    yield not git("status", "--porcelain"), "nothing is uncommitted", "commit or stash it"
    yield (
        newest == VERSION,
        f"the changelog begins with {VERSION}",
        f"it begins with {newest}: change it, or the version in pyproject.toml",
    )
    yield (
        bool(re.fullmatch(r"\d{4}-\d\d-\d\d", date)) and date <= today,
        "the changelog has the day of the release",
        f'write "## {VERSION}, {today}"',
    )
    yield (
        f"| {minor} | {schema} |" in versions,
        f"docs/reference/versions.md has {minor} with schema {schema}",
        "add the line; if the schema has changed, the changelog tells how to upgrade",
    )
    yield (
        built == [f"rowbell-{VERSION}-py3-none-any.whl", f"rowbell-{VERSION}.tar.gz"],
        "dist/ has this version, and no other",
        "make dist",
    )
    if tag is None:
        yield not tags, f"v{VERSION} is not tagged yet", "raise the version in pyproject.toml"
    else:
        yield tag == f"v{VERSION}", f"the tag is v{VERSION}", f"it is {tag}: tag that commit again"


def main() -> int:
    """Print the checklist; return 1 if a point is open."""
    points = list(checklist())
    for done, what, remedy in points:
        print(f"[{'x' if done else ' '}] {what}" + ("" if done else f"\n      {remedy}"))
    if not all(done for done, _, _ in points):
        return 1
    if "TAG" not in os.environ:
        print(
            "\nBy hand: .ci/run has passed, `make bench` and `make faults` are of this code, and"
            "\nsomebody has looked at the site. Then the tag publishes:"
            f"\n  git tag --sign v{VERSION} && git push origin v{VERSION}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
