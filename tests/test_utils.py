"""Atomic files, messages for those that cannot be read or written, and the argument parser."""
import gzip
import json
import os
import re
import sys
import termios
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from utils import (
    InputError,
    Parser,
    atomic_folder,
    print_line,
    progress,
    read_json,
    refuse_overwriting_foreign,
    refuse_overwriting_inputs,
    show_details,
    write_json,
    write_text,
)

# ---- atomic files ---------------------------------------------------------------------------------------------------

def message(path: Path) -> str:
    """The error of the JSON reader; one line of limited length, whatever the file contains."""
    with pytest.raises(InputError) as caught:
        read_json(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and text.isprintable() and len(text) < len(str(path)) + 300, text
    return text


@pytest.mark.parametrize(('content', 'words'), [
    (b'', 'empty'), (b'   ', 'not a valid JSON'), (b'{"database": ', 'not a valid JSON'),
    (b'\xff\xfe{}', 'is not UTF-8'), (b'\x80\x02}q\x00.', 'is not UTF-8'),
    (b'{"results": {}} more', 'not a valid JSON'), (b'[' * 10 ** 5, 'nested too deep'),
    (b'{"a":' * 10 ** 5, 'nested too deep'), (b'{"database": {"a": {}, "a": {}}}', "'a' appears twice"),
    (b'[1' + b'0' * 5000 + b']', 'digits')])
def test_files_that_are_not_json(tmp_path, content, words):
    (tmp_path / 'file.json').write_bytes(content)
    assert words in message(tmp_path / 'file.json')


def test_files_that_cannot_be_read(tmp_path):
    assert 'No such file' in message(tmp_path / 'missing.json')
    assert 'directory' in message(tmp_path)


def test_a_byte_order_mark_is_accepted(tmp_path):
    (tmp_path / 'file.json').write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / 'file.json') == {'a': 1}


def test_gzip_files_are_recognized_by_content(tmp_path):
    content = gzip.compress(b'{"a": 1')
    for name in ('file.json.gz', 'file.json'):
        (tmp_path / name).write_bytes(content + gzip.compress(b'}'))  # as of `cat a.gz b.gz`
        assert read_json(tmp_path / name) == {'a': 1}
    (tmp_path / 'file.json').write_bytes(content)
    assert 'not a valid JSON' in message(tmp_path / 'file.json')


@pytest.mark.parametrize('damage', [lambda c: c[:-4], lambda c: c[:12], lambda c: c[:2], lambda c: c[:-8] + bytes(8),
                                    lambda c: c + b'more', lambda c: c[:12] + bytes(9) + c[21:]])
def test_damaged_gzip_files_are_refused(tmp_path, damage):
    content = json.dumps(list(range(99))).encode()
    (tmp_path / 'file.json.gz').write_bytes(damage(gzip.compress(content)))
    assert 'a damaged gzip file' in message(tmp_path / 'file.json.gz')


def test_gzip_files_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr('utils.MAX_GUNZIPPED', 2 ** 21)
    (tmp_path / 'file.json.gz').write_bytes(gzip.compress(b' ' * 2 ** 21 + b'1'))
    assert 'over 2 MiB; run gunzip' in message(tmp_path / 'file.json.gz')
    (tmp_path / 'file.json.gz').write_bytes(gzip.compress(b' ' * (2 ** 21 - 1) + b'1'))
    assert read_json(tmp_path / 'file.json.gz') == 1


def test_a_file_is_written_atomically(tmp_path, monkeypatch):
    path = tmp_path / 'results.json'
    write_json(path, {'a': 1})
    assert json.loads(path.read_text()) == {'a': 1} and os.listdir(tmp_path) == ['results.json']

    def fail(*_):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(InputError, match='results.json: cannot be written: No space left'):
        write_json(path, {'a': 2})
    assert json.loads(path.read_text()) == {'a': 1} and os.listdir(tmp_path) == ['results.json']


def test_two_writers_of_one_file_use_different_temporary_files(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(os, 'replace', lambda source, target: names.append(Path(source).name))
    for _ in range(2):
        write_text(tmp_path / 'file', 'x')
    form = rf'\.file\.{os.getpid()}-[0-9a-f]{{8}}\.tmp'
    assert len(set(names)) == 2 and all(re.fullmatch(form, name) for name in names)


def test_only_files_of_the_same_kind_are_overwritten(tmp_path):
    path = tmp_path / 'file'
    for place in path, None, '/dev/null', tmp_path:  # no file of another kind
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
    with pytest.raises(InputError, match='a: is given for more than one output'):
        refuse_overwriting_inputs([None], tmp_path / 'a', tmp_path / 'folder' / '..' / 'a')


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / 'results.json', {'a': float('nan')})
    assert not os.listdir(tmp_path)


def test_paths_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match='cannot be written: No such file'):
        write_text(tmp_path / 'none' / 'file', 'x')
    with pytest.raises(InputError, match='cannot be written: Is a directory'):
        write_text(tmp_path, 'x')
    with pytest.raises(InputError, match='cannot be written'):
        write_text('/dev/full', 'x')


def test_links_and_devices_are_not_replaced(tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'file')
    write_text(tmp_path / 'link', 'x')
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'file').read_text() == 'x'
    (tmp_path / 'null').symlink_to('/dev/null')
    write_text(tmp_path / 'null', 'x')
    assert not os.path.isfile('/dev/null')


def test_a_folder_appears_complete_or_not_at_all(tmp_path):
    target = tmp_path / 'data'
    with atomic_folder(target) as folder:
        (folder / 'a').write_text('1')
        assert not target.exists()
    with pytest.raises(KeyError):
        with atomic_folder(target) as folder:
            (folder / 'a').write_text('2')
            raise KeyError
    assert (target / 'a').read_text() == '1'
    with atomic_folder(target) as folder:
        (folder / 'b').write_text('3')
    assert os.listdir(target) == ['b'] and os.listdir(tmp_path) == ['data']
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match='cannot be written'), atomic_folder(tmp_path / 'file' / 'data'):
        pass


# ---- progress -------------------------------------------------------------------------------------------------------

DETAILS = ['mAP 41.23', '0.0123 s/step', 'loss 2.345', 'mil 1.234', 'consistency 0.012', 'contrast 10.345']


def bytes_on_terminal(monkeypatch, columns, show):
    """Return what a call prints on standard error and standard output, a terminal of this width."""
    def read():
        with suppress(OSError):  # the end of a terminal
            while True:
                parts.append(os.read(reader, 4096))

    parts, (reader, writer) = [], os.openpty()
    termios.tcsetwinsize(writer, (40, columns))
    thread = threading.Thread(target=read)
    thread.start()
    with open(writer, 'w', encoding='utf-8') as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, 'stderr', terminal)
        patch.setattr(sys, 'stdout', terminal)
        show()
    thread.join()
    os.close(reader)
    return b''.join(parts).decode()


def train_for_a_while():
    bar = progress(total=50_000, initial=10, desc='training', unit='step', delay=0, leave=True)
    for _ in range(3):
        bar.update(1000)
        show_details(bar, DETAILS)
        bar.refresh()
    print_line('a line')
    bar.close()


def test_the_bar_keeps_what_the_columns_have_room_for(monkeypatch):
    for columns, shown in ((60, 1), (80, 2), (95, 3), (110, 4), (200, 6)):
        states = re.split('[\r\n]+', bytes_on_terminal(monkeypatch, columns, train_for_a_while))
        assert 'a line' in states
        bars = [state for state in states if 'mAP' in state]
        assert len(bars) >= 3
        for bar in bars:
            assert len(bar) <= columns and f', {", ".join(DETAILS[:shown])}]' in bar
        assert re.fullmatch(r'training:   6%\|\S+ +\| 3010/50000 \[00:00<00:\d\d, .*', bars[-1])


def test_without_a_terminal_there_is_a_line_per_minute(monkeypatch, capsys):
    now = [0.]
    monkeypatch.setattr('tqdm.std.time', lambda: now[0])
    bars = [progress(total=400, desc='training', unit='step', delay=0, leave=True),
            progress(range(400), desc='reading', unit='video')]
    for i in bars[1]:
        now[0] += 0.5
        bars[0].update()
        show_details(bars[0], DETAILS)
    bars[0].close()
    print_line('a line')
    out, err = capsys.readouterr()
    assert out == 'a line\n' and '\r' not in err
    assert err.splitlines()[0] == 'training: step 0/400, ? left'
    training, reading = ([line for line in err.splitlines()[1:] if line.startswith(name)] for name in ('tra', 'rea'))
    assert len(training) == len(reading) == 3
    assert training[0] == f'training: step 120/400, 02:20 left, {", ".join(DETAILS)}'
    assert reading[1] == 'reading: video 240/400, 01:20 left'


def test_a_short_wait_shows_nothing(monkeypatch, capsys):
    assert list(progress(range(9), desc='reading', unit='video')) == list(range(9))
    assert capsys.readouterr() == ('', '')
    assert not bytes_on_terminal(monkeypatch, 80, lambda: print_line(str(sum(progress(range(9)))))).strip('36\r\n')


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
def test_a_misspelled_flag_gets_a_suggestion(parser, capsys, flag, meant):
    with pytest.raises(SystemExit) as caught:
        parser.parse_args([flag, 'x'])
    lines = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and len(lines) == 1
    assert lines[0].startswith('error: ') and f'did you mean {meant}?' in lines[0]


def test_only_similar_flags_are_suggested(parser, capsys):
    args = parser.parse_args(['--exp_name=--class th', '--class', '0.5', '--', '--clas_th'])
    assert (args.exp_name, args.class_th, args.names) == ('--class th', 0.5, ['--clas_th'])
    with pytest.raises(SystemExit):
        parser.parse_args(['--exp_name', 'x', '--quite_another'])
    assert 'did you mean' not in capsys.readouterr().err


@pytest.mark.parametrize(('arguments', 'words'), [
    (['--num_steps', ''], 'after --num_steps is empty'), (['--num_steps='], '--num_steps has no value'),
    (['a', ''], 'after a is empty'), ([''], 'after program is empty'), (['--', ''], 'after -- is empty')])
def test_an_empty_argument_is_refused(parser, capsys, arguments, words):
    parser.prog = 'program'
    with pytest.raises(SystemExit) as end:
        parser.parse_args(arguments)
    assert end.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize('form', [['--tiou', '{}'], ['--tiou={}']])
@pytest.mark.parametrize(('text', 'expected'), [
    ('0.5:0.05:0.95', [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]),
    ('0.1:0.1:0.7', [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]), ('.3:.3:1', [0.3, 0.6, 0.9])])
def test_a_range_of_thresholds(form, text, expected):
    ranged = Parser()
    ranged.add_argument('--tiou', type=float, nargs='+')
    ranged.add_argument('--name')
    arguments = ranged.parse_args([word.format(text) for word in form] + ['--name', '0:1:2'])
    assert arguments.tiou == expected and arguments.name == '0:1:2'


@pytest.mark.parametrize('text', ['0.5:0:0.9', '0.5:-1:0.9', '0.9:0.1:0.5', '0.5:0.95', '0:1e-9:1', 'a:b:c', '1::2',
                                  '0.1:0.7:0.1', '0.5:0.95:0.05', '[0.1:0.1:0.7]', '0.5,0.75'])  # start:stop:step, ...
@pytest.mark.parametrize('form', [['--tiou', '{}'], ['--tiou={}']])
def test_other_ranges_are_refused(capsys, form, text):
    ranged = Parser()
    ranged.add_argument('--tiou', type=float, nargs='+')
    with pytest.raises(SystemExit):
        ranged.parse_args([word.format(text) for word in form])
    line = capsys.readouterr().err
    assert f"invalid float value: '{text}'" in line or f'--tiou {text}: give numbers, separated by spaces, or' in line
