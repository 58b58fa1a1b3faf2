"""AICL for `torch.hub`: trained weights as a module that localizes actions in arrays of features.

    model = torch.hub.load('/path/to/this/repository', 'aicl', source='local', weights='outputs/first/best.pt')
    for row in model.localize(np.load('video.npy')):
        print(row.label, row.start, row.end, row.score)

Modules of this repository are imported into a package with a unique name: they neither use nor replace modules of the
caller with the same names, such as `utils` or `model`.
"""
import ast
import hashlib
import importlib
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

dependencies = ['torch', 'numpy', 'orjson', 'tqdm']  # torch.hub checks them

ROOT = Path(__file__).resolve().parent
PACKAGE = 'aicl_' + hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]


class Loader(SourceFileLoader):
    """Loads a module whose imports from this repository are changed to imports from PACKAGE."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the file; its cached bytecode is that of the unchanged imports."""
        tree = ast.parse(self.get_data(self.path), self.path)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                top = ROOT / str(node.module).split('.')[0]
                if top.with_suffix('.py').is_file() or (top / '__init__.py').is_file():
                    node.module = f'{PACKAGE}.{node.module}'
        return compile(tree, self.path, 'exec', dont_inherit=True)


class Finder(MetaPathFinder):
    """Finds the modules in PACKAGE."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of a module with `Loader`, None for any other module."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname.startswith(f'{PACKAGE}.') else None
        if spec and spec.origin:
            spec.loader = Loader(fullname, spec.origin)
        return spec


def aicl(weights: str | Path, **settings: Any) -> Any:
    """Return the module for a weights file, on the CPU and in eval mode: `localize`, `events`, `class_names`.

    args.json, labels.txt and normalization.npz are read from the folder of the weights. Settings are named as the flags
    of main.py, as in class_th=0.1. See engine/localizer.py.
    """
    if PACKAGE not in sys.modules:
        package = ModuleType(PACKAGE)
        package.__path__ = [str(ROOT)]
        sys.modules[PACKAGE] = package
        sys.meta_path.insert(0, Finder())
    return importlib.import_module(f'{PACKAGE}.engine.localizer').Localizer.load(weights, **settings)
