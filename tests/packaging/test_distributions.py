"""The wheel and the source distribution: what is in them, and what PyPI shows."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from support.paths import ROOT

SOURCES = ROOT / "src"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, as ``make dist`` builds them."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    [path] = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return message_from_bytes(wheel.read(name))


def test_the_wheel_has_the_package_and_the_plugin_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    kinds = ("*.py", "*.sql", "py.typed")
    files = {str(path.relative_to(SOURCES)) for kind in kinds for path in SOURCES.rglob(kind)}
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == files


def test_the_source_distribution_has_all_that_is_in_the_repository(built: Path) -> None:
    """So ``make check`` and ``make docs`` work there, too."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is not the repository")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    kept = {name for name in listed if (ROOT / name).is_file() and not name.startswith(".ci/")}
    assert names == {*kept, "PKG-INFO"}


def test_twine_finds_nothing_wrong(built: Path) -> None:
    files = map(str, built.iterdir())
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], check=True)


def test_on_pypi_every_link_and_picture_of_the_readme_has_a_whole_address(
    metadata: Message,
) -> None:
    readme = metadata.get_payload()
    assert isinstance(readme, str)
    targets = re.findall(r"\]\(([^)]+)\)", readme)
    assert len(targets) > 20
    assert [target for target in targets if not target.startswith("https://")] == []
    assert "![A writer" in readme


def test_on_pypi_each_link_leads_to_a_page_or_a_file_that_exists(metadata: Message) -> None:
    readme = str(metadata.get_payload())
    site = re.findall(r"\(https://rowbell.readthedocs.io/en/stable/([^)#]+)\.html", readme)
    repository = re.findall(
        r"\(https://(?:github.com/rowbell/rowbell/blob|raw.githubusercontent.com/rowbell/rowbell)"
        r"/main/([^)#]+)",
        readme,
    )
    assert site
    assert repository
    assert all((ROOT / "docs" / f"{page}.md").exists() for page in site)
    assert all((ROOT / path).exists() for path in repository)


def test_an_installer_is_told_the_version_the_extras_and_the_license(metadata: Message) -> None:
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_all("Provides-Extra") == sorted(metadata.get_all("Provides-Extra", []))
    assert {url.split(",")[0] for url in metadata.get_all("Project-URL", [])} == {
        "Documentation",
        "Source",
        "Changelog",
        "Issues",
    }
