"""pyd-oci's modules in one file: a start imports fifty, and finding each costs more than running it.

Model
    The *archive* lies beside the byte code of single modules and is made of it: a marshalled tuple of the
    interpreter's magic number with the directory it is for, what the sources were (path, time, size), and each
    module's code. One whose sources have changed, or that another Python made, is as good as none, and the modules
    are imported as ever.
    A command that needed a module from elsewhere leaves an archive with all it knows, if it may write there.

Example
    archive = Archive("/usr/local/lib/pyd/lib/python3.11/site-packages")
    ...                # imports
    archive.renew()
"""

from __future__ import annotations

import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    Source = tuple[str, int, int]
    Module = tuple[Source, bool, bytes]

_PACKAGE = "daemon"


class Archive:
    """A finder and loader of what is in it (importlib's protocol)."""

    __slots__ = ("_modules", "_path", "_root")

    def __init__(self, root: str) -> None:
        tag = sys.implementation.cache_tag
        self._root = root
        self._path = f"{root}/{_PACKAGE}/runtime/__pycache__/pyd-oci.{tag}.modules"
        self._modules = self._load()
        sys.meta_path.insert(0, self)

    def _load(self) -> dict[str, Module]:
        try:
            with open(self._path, "rb") as file:
                made, modules = marshal.loads(file.read())
            if made == (MAGIC_NUMBER, self._root) and all(
                _source(one[0][0]) == one[0] for one in modules.values()
            ):
                return modules  # type: ignore[no-any-return]
        except (OSError, EOFError, ValueError, TypeError):
            pass
        return {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        found = self._modules.get(name)
        if found is None:
            return None
        (file, _, _), package, _ = found
        spec = ModuleSpec(name, self, origin=file, is_package=package)  # type: ignore[arg-type]
        spec.has_location = True
        if package:
            spec.submodule_search_locations = [file.rpartition("/")[0]]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """An ordinary one."""

    def exec_module(self, module: ModuleType) -> None:
        exec(marshal.loads(self._modules[module.__name__][2]), module.__dict__)

    def renew(self) -> None:
        """Put what was imported from elsewhere into the archive."""
        new = [
            name for name in sys.modules if name.partition(".")[0] == _PACKAGE and name not in self._modules
        ]
        if not new:
            return
        try:
            self._modules |= {name: _module(name) for name in new}
            aside = f"{self._path}.{posix.getpid()}"
            with open(aside, "wb") as file:
                file.write(marshal.dumps(((MAGIC_NUMBER, self._root), self._modules)))
            posix.rename(aside, self._path)
        except (OSError, AttributeError):
            pass  # installed where nobody may write


def _module(name: str) -> Module:
    spec: Any = sys.modules[name].__spec__
    code = spec.loader.get_code(name)
    return _source(spec.origin), spec.submodule_search_locations is not None, marshal.dumps(code)


def _source(path: str) -> Source:
    found = posix.stat(path)
    return path, found.st_mtime_ns, found.st_size
