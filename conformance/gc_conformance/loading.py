"""From a name to a port: a module, a file, an attribute of either, a command, or the object itself."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from .fence import Fence, of_the_process
from .port import FUNCTIONS, Port, PortError, is_single_function

COMMAND = "command:"  # before the command line of a program that is a port
_numbers = itertools.count()


def load(
    target: object,
    *,
    call: bool = False,
    switch: str | None = None,
    built_with: Sequence[str] = (),
    adapter: str | None = None,
) -> Port:
    """Return the port that `target` names or is.

    Args:
        target: "package.module", "package.module:attribute", "file.py", "file.py:function", "command: words of a
            command line", or the object itself.
        call: `target` is a class or a function that makes the port when it is called without arguments.
        switch, built_with, adapter: `target` is an optimizer of a framework, which `ports.adapt` makes a port.

    Raises:
        PortError: it cannot be imported, offers none of the functions of a port, or is a class; or arrays of a dtype
            that it claims do not come through its `from_numpy` and `to_numpy`.
    """
    if isinstance(target, Port):
        return target
    if isinstance(target, str) and target.startswith(COMMAND):
        from .protocol import Program

        program = Program(target.removeprefix(COMMAND).strip())
        imports = f"from gc_conformance.protocol import Program; port = Program({program.command!r})"
        port = Port(program, target, imports)
    elif isinstance(target, str):
        adapts = bool(switch or built_with or adapter)
        how = {"switch": switch, "built_with": built_with, "framework": adapter} if adapts else None
        port = _named(target, call, how)
    else:
        made = _instance(target, call, str(target))
        port = Port(made, *_describe(made))
    port.handshake()
    return port


def _named(target: str, call: bool, adapted: dict[str, Any] | None = None) -> Port:
    path, attribute = _split(target)
    is_file = path.endswith(".py")
    if is_file and not Path(path).is_file():
        raise PortError(f"{path} cannot be imported: there is no such file.")
    folder = str(Path(path).resolve().parent) if is_file else os.getcwd()
    fence = Fence([folder, *(entry for entry in sys.path if entry not in ("", folder))])
    try:
        with fence.port():
            found: Any = _import_file(path) if is_file else importlib.import_module(path)
            for part in attribute.split(".") if attribute else ():
                if not hasattr(found, part):
                    raise PortError(f"{path} has no {attribute!r}.")
                found = getattr(found, part)
            if adapted is None:
                found = _instance(found, call, target)
            else:
                from .ports import adapt

                found = adapt(found, **adapted)
    except PortError:
        raise
    except BaseException as error:  # SystemExit and others: none of them is for us
        if of_the_process(error):
            raise
        raise PortError(f"{target} cannot be imported: {type(error).__name__}: {error}") from error
    line = import_line(path, attribute, is_single_function(found), call)
    return Port(found, target, line, path=fence.path)


def _instance(found: Any, call: bool, target: str) -> Any:
    """The port itself, where what was named is a class of ports or, with `call`, makes one."""
    if call:
        if not callable(found):
            raise PortError(f"{target} cannot be called: it is a {type(found).__name__}.")
        try:
            return found()
        except TypeError as error:
            raise PortError(f"{target}() cannot be made: {error}") from error
    if inspect.isclass(found):
        methods = [name for name in FUNCTIONS if name in dir(found)]
        static = all(isinstance(inspect.getattr_static(found, m), staticmethod | classmethod) for m in methods)
        if not methods or not static:
            raise PortError(f"{target} is a class; name an instance or --call.")
    return found


def _split(target: str) -> tuple[str, str]:
    path, colon, attribute = target.rpartition(":")
    if not colon or attribute.endswith(".py"):  # "C:\\file.py" has a colon too
        return target, ""
    return path, attribute


def _import_file(path: str) -> ModuleType:
    file = Path(path)
    # A name of its own: two files of one name are two modules.
    spec = importlib.util.spec_from_file_location(f"gc_port_{next(_numbers)}_{file.stem}", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def import_line(path: str, attribute: str, single: bool, call: bool = False) -> str:
    """One line of Python that binds `port`, or `centralize` for a single function."""
    name, made = "centralize" if single else "port", "()" if call else ""
    first, *rest = attribute.split(".") if attribute else ("",)
    if path.endswith(".py"):
        run = f"import runpy, sys, types; sys.path.insert(0, {str(Path(path).parent)!r}); "
        if not attribute:
            return run + f"port = types.SimpleNamespace(**runpy.run_path({path!r}))"
        found = f"runpy.run_path({path!r})[{first!r}]" + "".join(f".{part}" for part in rest)
        return run.replace(", types", "") + f"{name} = {found}{made}"
    if not attribute:
        return f"import {path} as port"
    line = f"from {path} import {first}" + (f" as {name}" if first != name else "")
    return line + (f"; {name} = {'.'.join([name, *rest])}{made}" if rest or made else "")


def _describe(target: object) -> tuple[str, str]:
    if isinstance(target, ModuleType):
        return target.__name__, f"import {target.__name__} as port"
    single = is_single_function(target)
    module, name = getattr(target, "__module__", ""), getattr(target, "__qualname__", "")
    if module and name.isidentifier() and getattr(sys.modules.get(module), name, None) is target:
        return f"{module}:{name}", import_line(module, name, single)
    label = getattr(target, "name", None) or name or f"a {type(target).__name__}"
    return str(label), f"{'centralize' if single else 'port'} = ...  # the object that was judged"
