"""The pages match the code: links, commands, flags, names, quirks, and the length of the README."""
import ast
import importlib
import io
import re
import runpy
import shlex
import sys
import warnings
from collections import Counter
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from config import get_parser
from model import ActionnessModule

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / 'README.md'
PAPER_AND_CODE = ROOT / 'docs' / 'paper_and_code.md'
PAGES = [README, *sorted((ROOT / 'docs').glob('*.md')), ROOT / 'benchmarks' / 'README.md']
FLAG = re.compile(r'(?<![\w-])--?[a-z][\w-]*')


def text_of(page: Path) -> str:
    return page.read_text(encoding='utf-8')


def blocks(page: Path) -> list[str]:
    """Return the code blocks without a language."""
    return [text for language, text in re.findall(r'^```(\w*)\n(.*?)^```$', text_of(page), re.M | re.S) if not language]


def inline_code(page: Path) -> list[str]:
    without_blocks = re.sub(r'^```.*?^```', '', text_of(page), flags=re.M | re.S)
    return [code.replace('\n', ' ') for code in re.findall(r'`([^`]+)`', without_blocks)]


# ---- links -----------------------------------------------------------------------------------------------------------

def links(page: Path) -> list[str]:
    """Return the relative link targets, with their anchors."""
    found = re.findall(r'\]\(([^)\s]+)\)', text_of(page))
    return [target for target in found if not re.match(r'[a-z]+:', target)]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub generates them."""
    titles = re.findall(r'^#+ (.*)$', re.sub(r'^```.*?^```', '', text_of(page), flags=re.M | re.S), re.M)
    return {re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-') for title in titles}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_has_a_target(page):
    broken = []
    for target in links(page):
        path, _, anchor = target.partition('#')
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or anchor and anchor not in anchors(place):
            broken.append(target)
    assert not broken


def test_every_page_can_be_reached_from_the_readme():
    linked = {(README.parent / target.partition('#')[0]).resolve() for target in links(README)}
    assert [page for page in PAGES if page != README and page not in linked] == []


def test_the_readme_can_be_read_in_ten_minutes():
    assert len(text_of(README).split()) <= 2000


# ---- diffs -----------------------------------------------------------------------------------------------------------

def test_the_diffs_for_developers_apply_to_the_code():
    diffs = re.findall(r'^```diff\n(.*?)^```', text_of(ROOT / 'docs' / 'developers.md'), re.M | re.S)
    assert len(diffs) > 4
    for diff in diffs:
        file = 'model.py'
        for line in diff.splitlines():
            if line.startswith('+++ b/'):
                file = line.removeprefix('+++ b/')
            elif line[0] in ' -' and not line.startswith('---'):
                assert line[1:] in text_of(ROOT / file).splitlines(), line


# ---- commands --------------------------------------------------------------------------------------------------------

def commands(page: Path) -> list[list[str]]:
    """Return the words of every command line of a page that runs a program of this project."""
    lines = [line for block in blocks(page) for line in block.replace('\\\n', ' ').splitlines()] + inline_code(page)
    found = []
    for line in lines:
        if re.match(r'([A-Z_]+=\S* )*(python|bash|sbatch|torchrun) ', line.strip()):
            words = shlex.split(line, comments=True)
            while re.match('[A-Z_]+=', words[0]):
                words.pop(0)
            found.append(words)
    return found


def program_of(words: list[str]) -> tuple[str, list[str]]:
    """Return the file or module that a command runs, and its arguments."""
    if words[0] == 'torchrun':
        place = words.index('main.py')
    elif words[0] == 'sbatch':
        place = next(i for i, word in enumerate(words) if word.startswith('scripts/'))
    else:
        place = 2 if words[1] == '-m' else 1
    return words[place], words[place + 1:]


@cache
def help_of(program: str) -> str:
    """Return a program's --help; of a script its text, and the help of main.py, to which it passes flags on."""
    if program.endswith('.sh'):
        return (ROOT / program).read_text(encoding='utf-8') + help_of('main.py')
    output, before = io.StringIO(), sys.argv
    sys.argv = [program, '--help']
    try:  # in this process, because importing torch takes seconds
        with redirect_stdout(output), pytest.raises(SystemExit) as ended, warnings.catch_warnings(action='ignore'):
            if program.endswith('.py'):
                runpy.run_path(str(ROOT / program), run_name='__main__')
            else:
                runpy.run_module(program, run_name='__main__', alter_sys=True)
    finally:
        sys.argv = before
    assert not ended.value.code
    return output.getvalue()


def exists(program: str) -> bool:
    path = ROOT / program.replace('.', '/')
    return (ROOT / program).is_file() or path.with_suffix('.py').is_file() or (path / '__main__.py').is_file()


FOREIGN = ('pip', 'pytest', 'venv', 'ruff', 'mypy', '-c')  # in commands, but not part of this project


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_runs_an_existing_program_with_its_flags(page):
    wrong = []
    for words in commands(page):
        program, arguments = program_of(words)
        if program in FOREIGN:
            continue
        if not exists(program):
            wrong.append(f'{program} does not exist')
            continue
        known = set(FLAG.findall(help_of(program)))
        flags = [word.partition('=')[0] for word in arguments if FLAG.fullmatch(word.partition('=')[0])]
        wrong += [f'{program} has no {flag}' for flag in flags if flag not in known]
    assert not wrong


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_flag_in_the_text_belongs_to_a_program_of_these_pages(page):
    programs = {program_of(words)[0] for one in PAGES for words in commands(one)}
    known = {flag for program in programs if program not in FOREIGN and exists(program)
             for flag in FLAG.findall(help_of(program))}
    assert [code for code in inline_code(page) if code.startswith('--') and FLAG.match(code)[0] not in known] == []


def test_commands_and_flags_are_found():
    found = [program_of(words) for page in PAGES for words in commands(page)]
    assert ('scripts/seeds.sh', ['3']) in found
    assert any(program == 'main.py' and '--resume' in arguments for program, arguments in found)
    assert {'--tiou', '--output'} <= set(FLAG.findall(help_of('eval.detection')))


# ---- quirks ----------------------------------------------------------------------------------------------------------

def quirks_in_code() -> Counter:
    """Return how often each function or class has a comment with `quirk:`, by its dotted name."""
    counts: Counter = Counter()
    folders = '.', 'engine', 'formats', 'eval', 'extraction'
    for path in (path for folder in folders for path in (ROOT / folder).glob('*.py')):
        text = text_of(path)
        owners = owners_of_lines(ast.parse(text))
        module = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        for number, line in enumerate(text.splitlines(), 1):
            if 'quirk:' in line:
                counts[f'{module}.{owners.get(number, "")}'] += 1
    return counts


def owners_of_lines(tree: ast.AST, parent: str = '') -> dict[int, str]:
    """Return the function or class that contains each line, by line number; __init__ counts as its class."""
    owners = {}
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            name = parent if node.name == '__init__' else f'{parent}.{node.name}'.strip('.')
            owners.update(dict.fromkeys(range(node.lineno, (node.end_lineno or 0) + 1), name))
            owners.update(owners_of_lines(node, name))
    return owners


def places_of_quirks() -> list[str]:
    section = text_of(PAPER_AND_CODE).partition('## Quirks')[2].partition('\n## ')[0]
    return re.findall(r'^\| .* \| `([\w.]+)` \|$', section, re.M)


def find(name: str) -> Any:
    """Return what a dotted name refers to: a module's function, class, field, or a module of the network."""
    parts = name.split('.')
    module = next(i for i in range(len(parts) - 1, 0, -1) if exists('.'.join(parts[:i])))
    value = importlib.import_module('.'.join(parts[:module]))
    for part in parts[module:]:
        if value is ActionnessModule:  # its modules are attributes of an instance
            value = ActionnessModule(2, 3, 4, ('rgb', 'flow'))
        value = getattr(value, part)
    return value


def test_every_quirk_in_the_table_has_a_comment_in_the_code_and_vice_versa():
    assert len(places_of_quirks()) > 10
    assert Counter(places_of_quirks()) == quirks_in_code()


@pytest.mark.parametrize('place', sorted(set(places_of_quirks())))
def test_the_place_of_a_quirk_exists(place):
    assert callable(find(place))


# ---- from the paper to the code --------------------------------------------------------------------------------------

def names_of_paper_table() -> list[str]:
    section = text_of(PAPER_AND_CODE).partition('## From the paper to the code')[2].partition('\n## ')[0]
    return re.findall(r'`([^`\n]+)`', '\n'.join(line for line in section.splitlines() if line.startswith('|')))


def test_every_name_in_the_paper_table_exists():
    names = [name for name in names_of_paper_table() if '.' in name]
    assert len(names) > 30
    for name in names:
        find(name)


def test_every_flag_in_the_paper_table_exists():
    flags = {name for name in names_of_paper_table() if '.' not in name} - {'T'}
    assert len(flags) > 5
    assert flags <= set(get_parser()._option_string_actions)
