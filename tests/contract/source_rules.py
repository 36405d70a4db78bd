"""What the source may import and call, read with ``ast``: nothing here is ever imported or run.

``violations(root)`` returns ``file:line: what is wrong`` for a package tree; an empty list means that it
keeps the rules. ``test_layers.py`` applies it to the package, and to small wrong trees to see it notice.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LAYERS = {
    "core": 0,
    "data": 1,
    "models": 1,
    "registry": 1,
    "adapt": 2,
    "objectives": 2,
    "engine": 3,
    "evaluate": 4,
    "run": 5,
    "serve": 6,
    "cli": 7,
    "studio": 7,
}
LIGHT = {"core", "data", "registry"}  # these work without any of HEAVY
HEAVY = {"torch", "transformers", "peft"}
# The command line reads its words before it loads anything heavy: module -> what it may import late.
LATE = {
    "cli.main": {"", "cli.commands", "cli.adapters"},
    "cli.main_data": {"cli.data", "cli.review", "cli.recommend", "cli.synthesize"},
    "cli.data": {"run.looking"},
    "cli.synthesize": {"run.local_writer"},
}
NO_IMPORT = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NO_NAME = {"print", "eval", "exec"}
NO_METHOD = {("torch", "load"), ("yaml", "load"), ("os", "system"), ("np", "load"), ("numpy", "load")}
NO_TRUE = {"shell", "trust_remote_code", "allow_pickle"}


@dataclass(frozen=True)
class Module:
    """``name`` is dotted and leaves out the package itself, which is the empty name."""

    name: str
    file: str
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Import:
    """``target`` is a first-party module as in ``Module.name``, or a foreign top-level name."""

    target: str
    own: bool
    line: int
    late: bool


def violations(root: Path) -> list[str]:
    """Everything in the package at ``root`` that breaks a rule."""
    modules = {m.name: m for m in _modules(root)}
    imports = {name: list(_imports(m, modules, root.name)) for name, m in modules.items()}
    found: list[str] = []
    for name, module in modules.items():
        found += _bad_imports(module, imports[name])
        found += _bad_calls(module)
        found += _bad_references(module, modules, root.name)
    return sorted(found) + _cycles(imports)


def _modules(root: Path) -> Iterator[Module]:
    for path in sorted(root.rglob("*.py")):
        parts = list(path.relative_to(root).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        file = str(path.relative_to(root))
        yield Module(".".join(parts), file, ast.parse(path.read_text(encoding="utf-8"), file))


def _imports(module: Module, modules: dict[str, Module], own: str) -> Iterator[Import]:
    for node, late in _walk(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = [own, *module.name.split(".")]
            if not module.file.endswith("__init__.py"):
                base.pop()
            base = base[: len(base) - node.level + 1] + ([node.module] if node.module else [])
            names = [f"{'.'.join(base)}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            yield Import(_known(rest, modules) if top == own else top, top == own, node.lineno, late)


def _known(name: str, modules: dict[str, Module]) -> str:
    """The longest beginning of ``name`` that is a module: ``run.recipe.Recipe`` -> ``run.recipe``."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def _walk(tree: ast.AST, late: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether it stands inside a function."""
    for node in ast.iter_child_nodes(tree):
        yield node, late
        inside = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _walk(node, inside)


def _bad_imports(module: Module, imports: list[Import]) -> Iterator[str]:
    level = LAYERS.get(module.package)
    if module.name and level is None:
        yield f"{module.file}:1: package {module.package!r} has no layer; give it one in source_rules.LAYERS"
        return
    for found in imports:
        where = f"{module.file}:{found.line}:"
        if not found.own:
            if found.target in HEAVY and module.package in LIGHT:
                yield f"{where} {module.package} works without {found.target}"
            if found.target in NO_IMPORT:
                yield f"{where} {found.target} runs code from a file that is read"
            continue
        if found.late and found.target not in LATE.get(module.name, ()):
            yield f"{where} {found.target or 'the package'} is imported inside a function"
        yield from _upward(module, found.target, where)


def _upward(module: Module, target: str, where: str) -> Iterator[str]:
    """A target in a higher layer, or in another package of the same one."""
    package = target.partition(".")[0]
    if not target or package == module.package:
        return
    level, other = LAYERS.get(module.package, -1), LAYERS.get(package, 99)
    if other > level:
        yield f"{where} {module.package or 'the package'} (layer {level}) uses {target} (layer {other})"
    elif other == level:
        yield f"{where} {module.package} uses {target}, which stands beside it"


def _bad_references(module: Module, modules: dict[str, Module], own: str) -> Iterator[str]:
    """``"package.module:attribute"`` strings are imports too, only later; the list of public names may."""
    if not module.name:
        return
    for node in ast.walk(module.tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.startswith(f"{own}.")
        ):
            target = node.value.partition(":")[0].removeprefix(f"{own}.")
            if target in modules:
                yield from _upward(module, target, f"{module.file}:{node.lineno}:")


def _bad_calls(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Dict):
            pairs = [
                (k.value, v)
                for k, v in zip(node.keys, node.values, strict=True)
                if isinstance(k, ast.Constant)
            ]
        elif isinstance(node, ast.Call):
            name = _called(node.func)
            if name is not None:
                yield f"{module.file}:{node.lineno}: {name}() is not used here"
            pairs = [(k.arg, k.value) for k in node.keywords]
        else:
            continue
        for key, value in pairs:
            if key in NO_TRUE and not (isinstance(value, ast.Constant) and not value.value):
                yield f"{module.file}:{value.lineno}: {key} must be false"


def _called(function: ast.expr) -> str | None:
    if isinstance(function, ast.Name) and function.id in NO_NAME:
        return function.id
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        pair = (function.value.id, function.attr)
        return ".".join(pair) if pair in NO_METHOD else None
    return None


def _cycles(imports: dict[str, list[Import]]) -> list[str]:
    """One line per cycle of modules; an import inside a function counts: the two still need each other."""
    edges = {name: sorted({i.target for i in found if i.own} - {"", name}) for name, found in imports.items()}
    state: dict[str, int] = {}  # 1 on the path, 2 done
    found: list[str] = []

    def visit(name: str, path: list[str]) -> None:
        state[name] = 1
        for target in edges.get(name, []):
            if state.get(target) == 1:
                loop = [*path[path.index(target) :], target]
                found.append("cycle: " + " -> ".join(loop))
            elif target not in state:
                visit(target, [*path, target])
        state[name] = 2

    for name in sorted(edges):
        if name not in state:
            visit(name, [name])
    return found
