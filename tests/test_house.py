"""The house rules that a machine can hold: who imports whom, and who may ask the world."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mailactors"

ROOMS = (
    *("errors", "runtime", "model", "providers", "spool", "outcome", "dispatch", "intake"),
    *("observe", "smtpd", "api", "config", "wiring", "service", "sim", "client", "cli", "__main__"),
)
"""Each room may import those before it."""
FORBIDDEN = {("runtime", "model"), ("model", "runtime"), ("smtpd", "api"), ("api", "smtpd")}
"""What the order alone would allow."""
SPOOL = ("port", "store", "sqlite")
"""Each part of the spool may import those before it."""
WINGS = ("scenario", "world", "vendor", "report", "oracle", "check", "run", "command")
"""The folders of `sim/` and its command; each may import those before it."""
PORTS = {"runtime/ports.py", "client/sync.py"}
"""A program without an event loop has no other clock than the system's."""
AMBIENT = {
    "time.time",
    "time.monotonic",
    "time.perf_counter",
    "time.sleep",
    "datetime.now",
    "datetime.utcnow",
    "uuid.uuid4",
    "os.urandom",
    "random.random",
    "random.choice",
    "random.uniform",
    "random.randint",
    "random.shuffle",
    "trio.current_time",
}
LINES_MAX = 400
FUNCTION_LINES_MAX = 50

FILES = sorted(PACKAGE.rglob("*.py"))
SIM = [path for path in FILES if path.parent != PACKAGE / "sim" and PACKAGE / "sim" in path.parents]
SIM += [PACKAGE / "sim" / "command.py"]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mailactors."):
            yield (node.module or "").split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("mailactors.")
            )


def imported_modules(tree: ast.AST) -> set[str]:
    """Return the modules that are imported, with each name that is imported from one."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def imported_files(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
            yield (node.module or "").removeprefix(f"{package}.")


def calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield ast.unparse(node.func)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_before_it(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    tree = ast.parse(path.read_text())

    wrong = [
        other
        for other in imported_rooms(tree)
        if ROOMS.index(other) > ROOMS.index(room) or (room, other) in FORBIDDEN
    ]

    assert [] == wrong


@pytest.mark.parametrize("part", SPOOL)
def test_a_part_of_the_spool_imports_only_parts_before_it(part: str) -> None:
    allowed = {f"mailactors.spool.{before}" for before in SPOOL[: SPOOL.index(part) + 1]}

    wrong = [
        f"{path.name}: {name}"
        for path in (PACKAGE / "spool" / part).rglob("*.py")
        for name in imported_modules(ast.parse(path.read_text()))
        if name.startswith("mailactors.spool") and ".".join(name.split(".")[:3]) not in allowed
    ]

    assert [] == wrong


@pytest.mark.parametrize("path", SIM, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_wing_of_the_simulator_imports_only_wings_before_it(path: Path) -> None:
    wing = path.relative_to(PACKAGE / "sim").parts[0].removesuffix(".py")
    tree = ast.parse(path.read_text())

    wrong = [
        file
        for file in imported_files(tree, "mailactors.sim")
        if WINGS.index(file.split(".")[0]) > WINGS.index(wing)
    ]

    assert [] == wrong


def test_the_rules_of_the_spool_are_in_plain_sql() -> None:
    dialect = (
        r"\b(iif|ifnull|json_\w+|CAST|INDEXED|PRAGMA|STRICT|sqlite_\w+|CROSS)\b|\?\d|OR REPLACE"
    )
    texts = [
        node.value
        for path in (PACKAGE / "spool" / "store").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]

    assert any("UPDATE deliveries" in text for text in texts)
    assert [] == [text for text in texts if re.search(dialect, text)]


def test_only_the_engine_knows_its_driver() -> None:
    users = {
        path.relative_to(PACKAGE).parent.as_posix()
        for path in FILES
        if any(n.split(".")[0] == "apsw" for n in imported_modules(ast.parse(path.read_text())))
    }

    assert {"spool/sqlite"} == users


def test_the_simulator_has_no_circle() -> None:
    root = PACKAGE / "sim"
    left = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): set(
            imported_files(ast.parse(path.read_text()), "mailactors.sim")
        )
        for path in SIM
    }
    while free := {name for name, files in left.items() if not files & left.keys()}:
        left = {name: files for name, files in left.items() if name not in free}

    assert {} == left


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_ports_ask_the_world(path: Path) -> None:
    if path.relative_to(PACKAGE).as_posix() in PORTS:
        return
    asked = {".".join(name.split(".")[-2:]) for name in calls(ast.parse(path.read_text()))}

    assert set() == asked & AMBIENT


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    functions = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = [f.name for f in functions if (f.end_lineno or 0) - f.lineno > FUNCTION_LINES_MAX + 15]

    assert text.count("\n") <= LINES_MAX
    assert [] == long


def test_decisions_are_plain_functions() -> None:
    impure = [
        f"{path.name}: {node.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("decide")
        and (
            isinstance(node, ast.AsyncFunctionDef)
            or any("clock" in name or "journal" in name for name in calls(node))
        )
    ]

    assert [] == impure


def test_every_room_is_known() -> None:
    rooms = {room_of(path) for path in FILES} - {"__init__"}

    assert rooms <= set(ROOMS)


def test_the_tree_has_no_links() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-s"], cwd=PACKAGE.parent, capture_output=True, text=True
    ).stdout

    assert [] == [line for line in listed.splitlines() if line.startswith("120000")]
