"""The files at the top level, the direction of imports, and the length of functions."""
import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 80  # of a function

# What a module may import of this project; a package stands for all of its modules.
DATA = {'utils', 'config', 'formats'}
METHOD = {*DATA, 'eval', 'losses', 'model', 'dataset'}
ENGINE = [{'device', 'torch_io', 'lock'}, {'runtime'}, {'checkpoint'}, {'trainer', 'inference'},
          {'run_folder', 'auto_config', 'localizer'}]
ALLOWED = {
    'utils': set(),
    'config': {'utils'},
    'losses': set(),
    'model': {'config'},
    'dataset': DATA,
    'formats': DATA,
    'eval': {*DATA, 'eval'},
    'extraction': {'utils', 'formats', 'extraction', *(f'engine.{name}' for name in ENGINE[0])},
    'main': {*METHOD, 'engine'},
}
for level, names in enumerate(ENGINE):
    below = {f'engine.{name}' for lower in ENGINE[:level] for name in lower}
    ALLOWED |= {f'engine.{name}': {*METHOD, *below} for name in names}
WITHOUT_TORCH = 'utils', 'config', 'formats', 'eval'


def read_sources():
    """Return the syntax tree of every Python file by its path."""
    command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', '*.py']
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name: ast.parse((ROOT / name).read_text()) for name in names if (ROOT / name).exists()}


SOURCES = read_sources()
MODULES = {name.removesuffix('.py').removesuffix('/__init__').replace('/', '.'): tree
           for name, tree in SOURCES.items() if not name.startswith('tests/')}


def imports_of(tree):
    """Yield the modules that are imported anywhere in a file, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, 'imports are absolute'
            inner = [f'{node.module}.{alias.name}' for alias in node.names]
            yield from ((name if name in MODULES else node.module, node.lineno) for name in inner)


def is_in(module, names):
    return any(f'{module}.'.startswith(f'{name}.') for name in names)


def test_the_top_level_has_six_python_files_and_the_entry_of_torch_hub():
    assert sorted(name for name in SOURCES if '/' not in name) == [
        'config.py', 'dataset.py', 'hubconf.py', 'losses.py', 'main.py', 'model.py', 'utils.py']


def test_imports_go_upwards_only():
    wrong = []
    for module, tree in MODULES.items():
        allowed = ALLOWED.get(module, ALLOWED.get(module.split('.')[0]))
        for name, line in imports_of(tree):
            if allowed is not None and is_in(name, {key.split('.')[0] for key in MODULES}) and not is_in(name, allowed):
                wrong.append(f'{module}:{line} imports {name}')
    assert not wrong, '\n'.join(wrong)


def test_every_module_of_the_engine_has_a_level():
    assert {name for name in MODULES if name.startswith('engine.')} <= set(ALLOWED)


def test_nothing_imports_main_but_the_program_that_runs_it_as_a_stage():
    wrong = [f'{module}:{line}' for module, tree in MODULES.items() if module != 'scripts.own_videos'
             for name, line in imports_of(tree) if name == 'main']
    assert not wrong, '\n'.join(wrong)


def test_formats_and_eval_do_not_import_torch():
    wrong = [f'{module}:{line}' for module, tree in MODULES.items() if is_in(module, WITHOUT_TORCH)
             for name, line in imports_of(tree) if is_in(name, {'torch'})]
    assert not wrong, '\n'.join(wrong)


def test_functions_are_short():
    long = [f'{module}:{node.lineno} {node.name} {node.end_lineno - node.lineno + 1}'
            for module, tree in MODULES.items() for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name != 'get_parser'
            and node.end_lineno - node.lineno >= MAX_LINES]
    assert not long, '\n'.join(long)
