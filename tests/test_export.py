"""Exported events: read back by the tools' own readers where there are any, else by the rules of their formats."""
import json
import subprocess
import venv
from decimal import Decimal
from xml.etree import ElementTree

import pytest
from test_events import make_detections

from eval.export import main
from formats.detections import write_detections, write_detections_csv

ODD = 'a "b" <c> & d\te'
EVENTS = make_detections(('one', 'run', 0.1234, 2, 0.9), ('one', 'run', 2, 5.5555, 0.8), ('one', ODD, 1, 3, 0.7),
                         ('two/x', 'run', 7, 7.0002, 0.6))


@pytest.fixture
def export(tmp_path):
    """Return a function that exports the events, with the flags given, to 'out'."""
    write_detections_csv(tmp_path / 'events.csv', EVENTS)

    def run(*flags):
        assert main([str(tmp_path / 'events.csv'), '-o', str(tmp_path / 'out'), *map(str, flags)]) == 0
        return tmp_path / 'out'
    return run


def test_elan_files_are_read_by_pympi(export, tmp_path):
    pympi = pytest.importorskip('pympi', reason='needs pympi-ling (requirements-dev.txt)')
    (tmp_path / 'clips').mkdir()
    (tmp_path / 'clips' / 'one.webm').touch()
    folder = export('--to', 'elan', '--videos', tmp_path / 'clips')
    assert sorted(path.name for path in folder.iterdir()) == ['one.eaf', 'two%2Fx.eaf']
    one, two = (pympi.Elan.Eaf(folder / name) for name in ('one.eaf', 'two%2Fx.eaf'))
    odd = r'a "b" <c> & d\te'
    assert set(one.get_tier_names()) == {odd, 'run'}
    assert one.get_annotation_data_for_tier('run') == [(123, 2000, 'run 0.90'), (2000, 5556, 'run 0.80')]
    assert one.get_annotation_data_for_tier(odd) == [(1000, 3000, odd + ' 0.70')]
    assert two.get_annotation_data_for_tier('run') == [(7000, 7001, 'run 0.60')]
    (media,) = one.media_descriptors
    assert media['MEDIA_URL'] == (tmp_path / 'clips' / 'one.webm').as_uri() and not two.media_descriptors
    assert media['MIME_TYPE'] == 'video/webm' and media['RELATIVE_MEDIA_URL'] == './one.webm'


def test_elan_files_follow_the_schema(export):
    """The rules of EAFv3.0.xsd for the elements that are used: order, attributes, keys and references."""
    root = ElementTree.parse(export('--to', 'elan') / 'one.eaf').getroot()
    assert root.tag == 'ANNOTATION_DOCUMENT' and {'AUTHOR', 'DATE', 'VERSION'} < set(root.attrib)
    assert root.get('FORMAT') == root.get('VERSION') == '3.0'
    assert [element.tag for element in root] == ['HEADER', 'TIME_ORDER', 'TIER', 'TIER', 'LINGUISTIC_TYPE']
    assert root.find('HEADER').get('TIME_UNITS') == 'milliseconds'
    slots = {slot.get('TIME_SLOT_ID'): slot.get('TIME_VALUE') for slot in root.find('TIME_ORDER')}
    assert len(slots) == len(root.find('TIME_ORDER')) == 6 and all(value.isdecimal() for value in slots.values())
    types = {kind.get('LINGUISTIC_TYPE_ID') for kind in root.findall('LINGUISTIC_TYPE')}
    ids = [annotation.get('ANNOTATION_ID') for annotation in root.iter('ALIGNABLE_ANNOTATION')]
    assert len(set(ids)) == 3
    for tier in root.findall('TIER'):
        assert tier.get('LINGUISTIC_TYPE_REF') in types
        last = 0
        for annotation in tier:
            ((aligned,),) = [annotation]
            start, end = (int(slots[aligned.get(f'TIME_SLOT_REF{i}')]) for i in (1, 2))
            assert last <= start < end and [value.tag for value in aligned] == ['ANNOTATION_VALUE']
            last = end


def test_elan_refuses_overlapping_events_of_a_class(tmp_path, capsys):
    write_detections_csv(tmp_path / 'e.csv', make_detections(('v', 'x', 0, 2, 1), ('v', 'x', 1, 3, 1)))
    assert main([str(tmp_path / 'e.csv'), '--to', 'elan', '-o', str(tmp_path / 'out')]) == 2
    error = capsys.readouterr().err
    assert "events of 'x' overlap at 1 s" in error and error.count('\n') == 1 and not (tmp_path / 'out').exists()


@pytest.mark.parametrize('flags, frames', [([], ['NA'] * 6), (['--fps', 25], ['3', '25', '50', '50', '75', '139'])])
def test_boris_rows_can_be_pasted(export, flags, frames):
    """As BORIS 8.27 pastes events: every line has six columns, and rows that it has already are skipped."""
    text = (export('--to', 'boris', *flags) / 'one.tsv').read_text()
    rows = [line.split('\t') for line in text.split('\n')]
    assert {len(row) for row in rows} == {6} and len({*map(tuple, rows)}) == len(rows)
    times = [Decimal(row[0]) for row in rows]
    assert times == sorted(times) == [Decimal(t) for t in ('0.123', '1.000', '2.000', '2.000', '3.000', '5.556')]
    assert [row[5] for row in rows] == frames
    states = {}
    for time, subject, code, modifier, comment, _ in rows:  # every second row of a code is a STOP
        assert subject == modifier == '' and comment.split()[0] == ('STOP' if states.get(code) else 'START')
        states[code] = not states.get(code)
    assert states == {'run': False, r'a "b" <c> & d\te': False}


def test_audacity_labels(export):
    assert (export('--to', 'audacity') / 'one.txt').read_text() == (
        '0.123400\t2.000000\trun\n1.000000\t3.000000\ta "b" <c> & d\\te\n2.000000\t5.555500\trun\n')


def test_label_studio_tasks_have_frames_from_1(export, tmp_path):
    (tmp_path / 'clips').mkdir()
    (tmp_path / 'clips' / 'v_one.mp4').touch()
    tasks = json.loads(export('--to', 'label_studio', '--fps', 25, '--videos', tmp_path / 'clips').read_text())
    assert [task['data'] for task in tasks] == [{'video': 'v_one.mp4'}, {'video': 'two/x'}]
    values = [result['value'] for result in tasks[0]['predictions'][0]['result']]
    assert [value['timelinelabels'] for value in values] == [['run'], [r'a "b" <c> & d\te'], ['run']]
    # Frame n (from 1) is shown from (n - 1) / 25 to n / 25 s.
    assert [value['ranges'] for value in values] == [
        [{'start': 4, 'end': 50}], [{'start': 26, 'end': 75}], [{'start': 51, 'end': 139}]]
    assert tasks[1]['predictions'][0]['result'][0]['value']['ranges'] == [{'start': 176, 'end': 176}]


@pytest.mark.long
def test_label_studio_accepts_the_tasks(export, tmp_path):
    """label-studio-sdk requires other versions of numpy and OpenCV, so it gets an environment for itself."""
    venv.create(tmp_path / 'env', with_pip=True)
    python = tmp_path / 'env' / 'bin' / 'python'
    done = subprocess.run([python, '-m', 'pip', 'install', '-q', 'label-studio-sdk'], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f'needs label-studio-sdk from PyPI: {done.stderr.strip()[-200:]}')
    config = ('<View><Video name="video" value="$video"/><TimelineLabels name="events" toName="video">'
              '<Label value="run"/><Label value="a &quot;b&quot; &lt;c&gt; &amp; d\\te"/></TimelineLabels></View>')
    check = f"""if True:
        import json, sys
        from label_studio_sdk.label_interface import LabelInterface
        predictions = [one for task in json.load(open(sys.argv[1])) for one in task['predictions']]
        errors = [LabelInterface({config!r}).validate_prediction(one, return_errors=True) for one in predictions]
        print(len(errors), sum(errors, []))
    """
    tasks = export('--to', 'label_studio', '--fps', 25)
    done = subprocess.run([python, '-c', check, tasks], capture_output=True, text=True)
    assert done.stdout.strip() == '2 []', done.stderr


def test_a_subset_and_detections_above_a_score_are_exported(export, tmp_path, capsys):
    out = export('--to', 'audacity', '--min_score', 0.75)
    assert [line.split('\t')[2] for line in (out / 'one.txt').read_text().splitlines()] == ['run', 'run']
    assert (out / 'two%2Fx.txt').read_text() == ''
    write_detections(tmp_path / 'd.json', make_detections(
        ('v', 'x', 0, 10, 0.9), ('v', 'x', 1, 9, 0.8), ('v', 'x', 20, 30, 0.5), ('v', 'x', 40, 50, 0.2)))
    for flags, starts in (([], [0]), (['--min_score', '0.3'], [0, 20])):
        assert main([str(tmp_path / 'd.json'), '--to', 'audacity', '-o', str(tmp_path / 'out2'), *flags]) == 0
        lines = (tmp_path / 'out2' / 'v.txt').read_text().splitlines()
        assert [float(line.split('\t')[0]) for line in lines] == starts
    assert capsys.readouterr().out.splitlines()[-1] == f'{tmp_path}/out2: 2 events in 1 file'


@pytest.mark.parametrize('tool', ['elan', 'boris', 'audacity', 'label_studio'])
def test_other_files_are_not_overwritten(export, tmp_path, capsys, tool):
    flags = ['--to', tool, '--fps', '25']
    out = [export(*flags) for _ in range(2)][1]  # its own files may be overwritten
    path = out if out.is_file() else sorted(out.iterdir())[0]
    path.write_text('my annotations')
    command = [str(tmp_path / 'events.csv'), '-o', str(out), *flags]
    assert main(command) == 2 and 'of another kind' in capsys.readouterr().err
    assert path.read_text() == 'my annotations'
    assert main([*command, '--overwrite']) == 0 and path.read_text() != 'my annotations'


def test_label_studio_needs_the_frame_rate(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(['e.csv', '--to', 'label_studio', '-o', str(tmp_path / 'x')])
    assert '--fps' in capsys.readouterr().err


def test_negative_detections_above_a_score_are_exported(tmp_path, capsys):
    write_detections(tmp_path / 'd.json', make_detections(('v', 'run', 0, 2, -1), ('v', 'run', 3, 5, -2)))
    argv = [str(tmp_path / 'd.json'), '--to', 'audacity', '-o', str(tmp_path / 'out')]
    assert main([*argv, '--min_score', '-1.5']) == 0
    assert (tmp_path / 'out' / 'v.txt').read_text() == '0.000000\t2.000000\trun\n'
    assert not capsys.readouterr().err
    assert main(argv) == 0
    assert 'negative scores only' in capsys.readouterr().err


def test_videos_with_long_names_get_a_file_each(tmp_path):
    names = 'x' * 299 + 'a', 'x' * 299 + 'b', 'é' * 150
    write_detections(tmp_path / 'd.json', make_detections(*((name, 'run', 0, 2, 0.9) for name in names)))
    assert main([str(tmp_path / 'd.json'), '--to', 'elan', '-o', str(tmp_path / 'out')]) == 0
    assert len(list((tmp_path / 'out').iterdir())) == 3
