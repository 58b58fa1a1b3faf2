"""The ground: whole files, and what is said of those that cannot be read or written."""
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from utils import InputError, Parser, refuse_overwriting_inputs, refuse_overwriting_foreign, pick, read_json, write_json, write_text

# ---- whole files ----------------------------------------------------------------------------------------------------

def message(path: Path) -> str:
    """What the reader of JSON says; one line of a sensible length, whatever the file holds."""
    with pytest.raises(InputError) as caught:
        read_json(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and text.isprintable() and len(text) < len(str(path)) + 300, text
    return text


@pytest.mark.parametrize(('content', 'words'), [
    (b'', 'empty'), (b'   ', 'not a JSON'), (b'{"database": ', 'not a JSON'), (b'\xff\xfe{}', "can't decode"),
    (b'\x80\x02}q\x00.', "can't decode"), (b'{"results": {}} more', 'not a JSON'), (b'[' * 10 ** 5, 'nested too deep'),
    (b'{"a":' * 10 ** 5, 'nested too deep'), (b'{"database": {"a": {}, "a": {}}}', "'a' stands twice"),
    (b'[1' + b'0' * 5000 + b']', 'digits')])
def test_files_that_are_no_json(tmp_path, content, words):
    (tmp_path / 'file.json').write_bytes(content)
    assert words in message(tmp_path / 'file.json')


def test_files_that_cannot_be_read(tmp_path):
    assert 'No such file' in message(tmp_path / 'missing.json')
    assert 'directory' in message(tmp_path)


def test_a_byte_order_mark_is_fine(tmp_path):
    (tmp_path / 'file.json').write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / 'file.json') == {'a': 1}


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / 'results.json'
    write_json(path, {'a': 1})
    assert json.loads(path.read_text()) == {'a': 1} and os.listdir(tmp_path) == ['results.json']

    def fail(*_):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(InputError, match='results.json: cannot be written: No space left'):
        write_json(path, {'a': 2})
    assert json.loads(path.read_text()) == {'a': 1} and os.listdir(tmp_path) == ['results.json']


def test_two_writers_of_one_file_write_beside_each_other(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(os, 'replace', lambda source, target: names.append(Path(source).name))
    for _ in range(2):
        write_text(tmp_path / 'file', 'x')
    form = rf'\.file\.{os.getpid()}-[0-9a-f]{{8}}\.tmp'
    assert len(set(names)) == 2 and all(re.fullmatch(form, name) for name in names)


def test_only_files_of_the_own_kind_are_written_over(tmp_path):
    path = tmp_path / 'file'
    for place in path, None, '/dev/null', tmp_path:  # nothing of anybody's is there
        refuse_overwriting_foreign(place, 'ours')
    for content in b'', b'ours', b'ours and more':
        path.write_bytes(content)
        refuse_overwriting_foreign(path, 'ours')
    for content in b'our', b' ours', b'\x00\xff':
        path.write_bytes(content)
        with pytest.raises(InputError, match='of another kind'):
            refuse_overwriting_foreign(path, 'ours')


def test_two_outputs_of_one_command_are_two_files(tmp_path):
    refuse_overwriting_inputs([None], tmp_path / 'a', None, None, tmp_path / 'b', '/dev/null', '/dev/null')
    with pytest.raises(InputError, match='a: is named for more than one output'):
        refuse_overwriting_inputs([None], tmp_path / 'a', tmp_path / 'folder' / '..' / 'a')


def test_not_a_number_is_never_written(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / 'results.json', {'a': float('nan')})
    assert not os.listdir(tmp_path)


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match='cannot be written: No such file'):
        write_text(tmp_path / 'none' / 'file', 'x')
    with pytest.raises(InputError, match='cannot be written: Is a directory'):
        write_text(tmp_path, 'x')
    with pytest.raises(InputError, match='cannot be written'):
        write_text('/dev/full', 'x')


def test_links_and_devices_stay_what_they_are(tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'file')
    write_text(tmp_path / 'link', 'x')
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'file').read_text() == 'x'
    (tmp_path / 'null').symlink_to('/dev/null')
    write_text(tmp_path / 'null', 'x')
    assert not os.path.isfile('/dev/null')


# ---- flags ----------------------------------------------------------------------------------------------------------

@pytest.fixture
def parser() -> Parser:
    parser = Parser()
    parser.add_argument('--class_th', type=float)
    parser.add_argument('--exp_name', required=True)
    parser.add_argument('names', nargs='*')
    return parser


@pytest.mark.parametrize(('flag', 'meant'), [
    ('--clas_th', '--class_th'), ('--class-th=0.3', '--class_th'), ('--expname', '--exp_name')])
def test_a_misspelt_flag_is_told_its_right_name(parser, capsys, flag, meant):
    with pytest.raises(SystemExit) as caught:
        parser.parse_args([flag, 'x'])
    lines = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and len(lines) == 1
    assert lines[0].startswith('error: ') and f'did you mean {meant}?' in lines[0]


def test_only_what_looks_like_a_flag_is_suggested_for(parser, capsys):
    args = parser.parse_args(['--exp_name=--class th', '--class', '0.5', '--', '--clas_th'])
    assert (args.exp_name, args.class_th, args.names) == ('--class th', 0.5, ['--clas_th'])
    with pytest.raises(SystemExit):
        parser.parse_args(['--exp_name', 'x', '--quite_another'])
    assert 'did you mean' not in capsys.readouterr().err


@pytest.mark.parametrize(('arguments', 'words'), [
    (['--num_steps', ''], 'after --num_steps is empty'), (['--num_steps='], 'nothing is given for --num_steps'),
    (['a', ''], 'after a is empty'), ([''], 'after program is empty'), (['--', ''], 'after -- is empty')])
def test_an_empty_argument_is_no_file_and_no_number(parser, capsys, arguments, words):
    parser.prog = 'program'
    with pytest.raises(SystemExit) as end:
        parser.parse_args(arguments)
    assert end.value.code == 2 and words in capsys.readouterr().err


def test_options_are_picked_from_the_values_of_all_flags_by_name():
    class Options(NamedTuple):
        width: int
        precision: str
        streams: tuple[str, ...]

    values = {'precision': 'fp32', 'streams': 'all', 'lr': 0.1, 'width': 3}
    assert pick(Options, values, streams=('rgb',)) == Options(width=3, precision='fp32', streams=('rgb',))
    with pytest.raises(KeyError, match='width'):
        pick(Options, {'precision': 'fp32'}, streams=())
