"""The pages match the code: links, commands, flags, names, quirks, and the length of the README."""
import argparse
import ast
import importlib
import io
import json
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from config import RECIPES, default_values, get_parser
from model import ActionnessModule
from scripts import own_videos

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


def test_the_readme_can_be_read_in_six_minutes():
    assert len(text_of(README).split()) <= 1200


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

# Commands of other programs, which may stand in a block of commands.
OTHER_COMMANDS = 'git', 'cd', '.', 'cp', 'export', 'docker', 'pip', 'tensorboard'
FOREIGN = 'pip', 'pytest', 'venv', 'ruff', 'mypy', 'scripts/test.sh'  # run by python or bash, without a parser here
PLACEHOLDERS = {'F': '25', 'n': '16', 'N': '16'}  # numbers in the text


def lines_of(block: str) -> list[list[str]]:
    """Return the words of each command in a block, without variables, comments and redirections."""
    found = []
    for line in block.replace('\\\n', ' ').splitlines():
        words = shlex.split(line.partition(' > ')[0], comments=True)
        while words and re.match('[A-Z_]+=', words[0]):
            words.pop(0)
        found += [words] if words else []
    return found


def command_blocks(page: Path) -> list[list[list[str]]]:
    """Return the blocks of commands; the other blocks are folders and tables."""
    return [lines_of(block) for block in blocks(page) if not re.search(r'[├└]|^\w+,\w', block)]


def commands(page: Path) -> list[list[str]]:
    """Return the words of every command of a page that runs a program of this project, in blocks and in the text."""
    in_text = [words for code in inline_code(page) if re.match(r'([A-Z_]+=\S* )*(python|bash|sbatch|torchrun) ', code)
               for words in lines_of(code)]
    in_blocks = [words for block in command_blocks(page) for words in block]
    return [words for words in in_blocks + in_text if words[0] not in OTHER_COMMANDS]


def program_of(words: list[str]) -> tuple[str, list[str]]:
    """Return the file or module that a command runs, and its arguments."""
    if words[0] == 'torchrun':
        place = words.index('main.py')
    elif words[0] == 'sbatch':
        place = next(i for i, word in enumerate(words) if word.startswith('scripts/'))
    else:
        place = 2 if words[1] == '-m' else 1
    return words[place], words[place + 1:]


def exists(program: str) -> bool:
    path = ROOT / program.replace('.', '/')
    return (ROOT / program).is_file() or path.with_suffix('.py').is_file() or (path / '__main__.py').is_file()


class Parsed(BaseException):
    """The arguments of a program are valid."""


def parse(program: str, arguments: list[str]) -> str:
    """Let a program parse its arguments, without running it; return what it prints, '' if they are valid."""
    def and_stop(method):
        def parse_and_stop(*args, **options):
            method(*args, **options)
            raise Parsed
        return parse_and_stop

    output = io.StringIO()
    try:  # in this process, because importing torch takes seconds
        with redirect_stdout(output), redirect_stderr(output), warnings.catch_warnings(action='ignore'), \
                pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'argv', [program, *arguments])
            for name in ('parse_args', 'parse_intermixed_args'):
                patch.setattr(argparse.ArgumentParser, name, and_stop(getattr(argparse.ArgumentParser, name)))
            if program.endswith('.py'):
                runpy.run_path(str(ROOT / program), run_name='__main__')
            else:
                runpy.run_module(program, run_name='__main__', alter_sys=True)
    except Parsed:
        return ''
    except SystemExit:
        return output.getvalue() or 'it parsed nothing'
    return 'it parsed nothing'


def parse_script(script: str, arguments: list[str]) -> str:
    """Parse the arguments of a shell script by the parsers of the programs that it runs; return as `parse`."""
    if script in ('own_videos.sh', 'localize.sh'):
        own, rest, after = own_videos.split_arguments(arguments, 'name')
        assert bool(own.model_file) == (script == 'localize.sh')
        return (rest and parse('extraction', [*rest, '--output', 'x'])) or parse('main.py', after)
    if script == 'seeds.sh' and arguments and arguments[0].isdecimal():
        arguments = arguments[1:]
    has_path = arguments and not arguments[0].startswith('-')
    return parse('main.py', arguments[1:] if has_path else arguments)


@cache
def problem_of(words: tuple[str, ...]) -> str:
    """Return why a command of a page is wrong, '' if it is right."""
    program, arguments = program_of([*words])
    if program in FOREIGN or program == '-c':
        return ''
    if not exists(program):
        return f'{program} does not exist'
    if '--help' in arguments:
        return ''
    arguments = [PLACEHOLDERS.get(word, word) for word in arguments]
    if program.endswith('.sh'):
        return parse_script(program.removeprefix('scripts/'), arguments)
    return parse(program, arguments)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_parsed_by_its_program(page):
    problems = {' '.join(words): problem_of(tuple(words)) for words in commands(page) if len(words) > 2}
    # In the text, a program may be named without its arguments.
    assert {command: problem for command, problem in problems.items()
            if problem and f'`{command}`' not in text_of(page)} == {}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_line_of_a_block_is_a_command(page):
    known = {'python', 'bash', 'sbatch', 'torchrun', *OTHER_COMMANDS}
    assert [words for block in command_blocks(page) for words in block if words[0] not in known] == []


def test_wrong_commands_are_found():
    for command in ('python main.py --data_path x --exp_name y --epochs 3', 'python -m eval.nothing gt.json',
                    'python -m eval.detection gt.json detections.json --tiou many',
                    'python -m eval.export events.csv --to word -o x', 'bash scripts/train.sh /data --lr fast',
                    'bash scripts/own_videos.sh a b.csv --resize tiny', 'bash scripts/own_videos.sh a b.csv -- --lr -1',
                    'sbatch scripts/slurm.sh /data --nodes=2', 'torchrun --nproc_per_node=4 main.py --seed first'):
        assert problem_of(tuple(command.split())), command
    found = [program_of(words) for page in PAGES for words in commands(page)]
    assert ('scripts/seeds.sh', ['3', '/data/THUMOS14']) in found
    assert any(program == 'main.py' and '--resume' in arguments for program, arguments in found)


@cache
def help_of(program: str) -> str:
    """Return a program's --help; of a script its text, and the help of main.py, to which it passes flags on."""
    if program.endswith('.sh'):
        return (ROOT / program).read_text(encoding='utf-8') + help_of('main.py')
    return parse(program, ['--help'])


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_flag_in_the_text_belongs_to_a_program_of_these_pages(page):
    programs = {program_of(words)[0] for one in PAGES for words in commands(one)}
    known = {flag for program in programs if program not in FOREIGN and exists(program)
             for flag in FLAG.findall(help_of(program))} | {'--long', '--shm-size'}
    assert [code for code in inline_code(page) if code.startswith('--') and FLAG.match(code)[0] not in known] == []


def test_the_messages_on_the_page_are_those_of_the_code():
    section = text_of(ROOT / 'docs' / 'running.md').partition('## When something breaks')[2].partition('\n### ')[0]
    messages = [code for line in section.splitlines() if line.startswith('|')
                for code in re.findall('`([^`]+)`', line.split('|')[1])]
    assert len(messages) > 8
    code = ' '.join(re.sub(r"'\s*\n\s*f?'", '', text_of(path)) for folder in (ROOT, ROOT / 'engine')
                    for path in folder.glob('*.py'))
    assert [part for message in messages for part in message.split('...') if part.strip() not in code] == []


# ---- files for clusters ----------------------------------------------------------------------------------------------

def test_the_dockerfile_copies_existing_files_and_runs_an_existing_script():
    lines = [line for line in text_of(ROOT / 'Dockerfile').replace('\\\n', ' ').splitlines()
             if line and not line.startswith('#')]
    instructions = [line.split() for line in lines]
    assert instructions[0][0] == 'FROM'
    copied = {name for word, *names in instructions if word == 'COPY' for name in names[:-1]}
    assert 'requirements.txt' in copied and all((ROOT / name).exists() for name in copied)
    installed = re.findall(r'-[rc] (\S+)', text_of(ROOT / 'Dockerfile'))
    assert set(installed) <= copied
    command = json.loads(next(line for line in lines if line.startswith('CMD')).removeprefix('CMD '))
    assert command[0] == 'bash' and exists(command[1])
    ignored = text_of(ROOT / '.dockerignore').split()
    assert {'.git', '.venv', 'data', 'outputs'} <= set(ignored) and not copied & set(ignored)


@pytest.mark.parametrize('script', sorted((ROOT / 'scripts').glob('*.sh')), ids=lambda path: path.name)
def test_scripts_have_valid_syntax(script):
    ended = subprocess.run(['bash', '-n', script], capture_output=True, text=True)
    assert ended.returncode == 0 and not ended.stderr, ended.stderr


# ---- recipes ---------------------------------------------------------------------------------------------------------

def value_in_table(text: str, recipe: str) -> object:
    """Return the value of a flag in a cell of the table, such as `T // 8 = 93`, `1/3`, `50,000 steps` or `yes`."""
    if pooled := re.fullmatch(r'T // (\d+) = (\d+)', text):
        assert int(pooled[2]) == RECIPES[recipe].num_segments // int(pooled[1])
        return int(pooled[1])
    if text.count(':') == 2:
        return get_parser().parse_args(['--tiou', text]).tiou
    switches = {'yes': True, 'no': False}
    return switches[text] if text in switches else float(Fraction(text.split()[0].replace(',', '')))


def test_the_table_of_recipes_has_the_values_of_the_code():
    section = text_of(PAPER_AND_CODE).partition('## Recipes')[2].partition('\n## ')[0]
    rows = [[cell.strip(' †‡') for cell in line.strip('|').split('|')] for line in section.splitlines()
            if line.startswith('|') and '`--' in line]
    assert len(rows) == 13
    for _, *cells, flags in rows:
        for name, cell in zip(('thumos14', 'activitynet1.2', 'activitynet1.3'), cells, strict=True):
            values = [default_values(name)[flag] for flag in re.findall('`--(.*?)`', flags)]
            cell = cells[0] if cell == 'same' else cell
            assert [value_in_table(text.strip(' †‡'), name) for text in cell.split(', ')] == [
                value for value in values if value is not None], (name, flags)


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
