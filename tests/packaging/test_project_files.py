"""What runs elsewhere says the same as what runs here: workflows, containers, hooks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest
import yaml

from support.paths import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSIONS = (ROOT / "docs" / "reference" / "versions.md").read_text()


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


CI = read(".github/workflows/ci.yml")["jobs"]


@pytest.mark.parametrize("workflow", ["ci.yml", "release.yml"])
def test_each_step_of_a_workflow_is_a_target_of_the_makefile(workflow: str) -> None:
    jobs = read(f".github/workflows/{workflow}")["jobs"]
    steps = [step for job in jobs.values() for step in job.get("steps", ())]
    commands = [step["run"] for step in steps if "run" in step]
    ours = [command for command in commands if not command.startswith("sudo apt-get ")]
    assert ours
    for command in ours:
        program, *words = command.split()
        assert program == "make"
        named = {word for word in words if "=" not in word and word != '"$TARGET"'}
        assert named <= TARGETS


def test_the_workflow_tests_each_version_that_we_say_we_work_with() -> None:
    pythons = CI["python"]["strategy"]["matrix"]["python"]
    servers = CI["postgres"]["strategy"]["matrix"]["postgres"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert pythons == named
    assert f"| Python | {pythons[0]} to {pythons[-1]} |" in VERSIONS
    assert f"| PostgreSQL | {servers[0]} to {servers[-1]} |" in VERSIONS


def test_the_workflow_tests_the_oldest_dependencies_and_both_lines_of_sqlalchemy() -> None:
    matrix = CI["dependencies"]["strategy"]["matrix"]["include"]
    assert {one["target"] for one in matrix} == {"test-floors", "test-newest"} <= TARGETS
    assert [one["with"] for one in matrix] == ["", "sqlalchemy<2.1", "sqlalchemy>=2.1.5"]


def test_the_checklist_of_a_release_says_what_is_open_and_what_to_do() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is not the repository")
    script = [sys.executable, str(ROOT / ".github" / "release.py")]
    environment = os.environ | {"TAG": "v0.0.9"}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    version = PROJECT["project"]["version"]
    assert done.returncode == 1
    assert f"[ ] the tag is v{version}\n      it is v0.0.9: tag that commit again" in done.stdout
    assert f"[x] the changelog begins with {version}" in done.stdout


COMPOSE = read("docker-compose.yml")["services"]


def test_the_container_runs_what_make_serve_runs_with_the_same_dependencies() -> None:
    dockerfile = (ROOT / COMPOSE["orders"]["build"]["dockerfile"]).read_text()
    [recipe] = re.findall(
        r"^serve: \$\(VENV\)/\.(\w+) .*\n\t\S+/python (\S+)$", MAKEFILE, re.MULTILINE
    )
    group, script = recipe
    assert f"--editable . --group {group}" in dockerfile
    assert f'CMD ["python", "{script}"]' in dockerfile


def test_the_app_is_given_the_database_that_is_beside_it() -> None:
    url = COMPOSE["orders"]["environment"]["DATABASE_URL"]
    password = COMPOSE["postgres"]["environment"]["POSTGRES_PASSWORD"]
    assert url == f"postgresql://postgres:{password}@postgres:5432/postgres"
    assert COMPOSE["orders"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert COMPOSE["orders"]["ports"] == ["127.0.0.1:8000:8000"]


def test_the_hooks_run_what_make_lint_runs() -> None:
    [local] = read(".pre-commit-config.yaml")["repos"]
    entries = [hook["entry"] for hook in local["hooks"]]
    assert all(
        (entry.split()[0] == "make" and entry.split()[1] in TARGETS)
        or entry.split()[0].removeprefix(".venv/bin/") in MAKEFILE
        for entry in entries
    )
