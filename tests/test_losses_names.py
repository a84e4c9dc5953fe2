"""The table of where the losses are, and what importing one of them brings along."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import lossbench.losses
from lossbench.losses import REGISTRY
from lossbench.losses.names import EXPORTS, MODULES


def test_the_table_names_the_module_of_every_loss_and_of_no_other() -> None:
    folder = Path(inspect.getfile(lossbench.losses)).parent
    decorated = {
        (decorator.args[0].value, path.stem)
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Name)
        and decorator.func.id == "register"
        and isinstance(decorator.args[0], ast.Constant)
    }
    assert decorated == set(MODULES.items())
    assert all(cls.name == name for name, cls in REGISTRY.items())
    assert all(EXPORTS.get(cls.__name__) == MODULES[name] for name, cls in REGISTRY.items())


def test_what_type_checkers_read_is_what_is_given_out() -> None:
    tree = ast.parse(Path(inspect.getfile(lossbench.losses)).read_text(encoding="utf-8"))
    (types,) = (node for node in tree.body if isinstance(node, ast.If))
    stated = {
        (alias.asname, node.module)
        for node in types.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == alias.asname
    }
    assert stated == {(name, f"lossbench.losses.{module}") for name, module in EXPORTS.items()}
    for name, module in EXPORTS.items():
        assert getattr(lossbench.losses, name) is getattr(import_module(f"lossbench.losses.{module}"), name)


@pytest.mark.slow
def test_a_module_of_losses_brings_no_other_along() -> None:
    alone = {
        "distribution": ["region", "lovasz", "structure"],
        "region": ["lovasz", "distribution", "boundary"],
    }
    code = (
        "import importlib, sys\n"
        "for module in sys.argv[1:]:\n"
        "    importlib.import_module(f'lossbench.losses.{module}')\n"
        "    loaded = [name for name in sys.modules if name.split('.')[0] == 'lossbench']\n"
        "    print(*loaded)\n"
        "    for name in loaded: del sys.modules[name]\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *alone], capture_output=True, text=True, check=True)
    for (module, others), line in zip(alone.items(), done.stdout.splitlines(), strict=True):
        loaded = line.split()
        assert f"lossbench.losses.{module}" in loaded
        assert not [other for other in others if f"lossbench.losses.{other}" in loaded], module
