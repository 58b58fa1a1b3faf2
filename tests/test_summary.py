"""Comparison of runs: groups, statistics and tables of small runs, and errors for other folders."""
import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
from golden_data import read_released, write_gt_212
from scipy import stats

from eval.detection import evaluate, scored_subset
from eval.summary import PUBLISHED_ON, compare, main, read_run
from formats.annotations import read_ground_truth

ROOT = Path(__file__).resolve().parents[1]
THREE = [  # mAP of the evaluations at steps 100, 200, 300, 400
    [0.10, 0.30, 0.25, 0.20],
    [0.20, 0.25, 0.28, 0.26],
    [0.15, 0.22, 0.35, 0.31],
]

ARGS = {  # some of those that main.py writes
    'dataset': 'thumos14', 'data_path': 'data/sample', 'output_dir': 'outputs', 'device': 'auto', 'num_workers': 0,
    'cache': 'all', 'precision': 'fp32', 'compile': False, 'resume': False, 'overwrite': False, 'lr': 1e-4,
    'num_epochs': None, 'detection_inf_step': 50, 'log_every': 10, 'lambda_contrast': 0.01, 'lambda_action': 0.1,
    'q_val': 0.7, 'soft_nms': True, 'tiou': [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]}


def make_run(folder: Path, values: list[float], seed: int = 1, classes: dict | None = None,
             more: dict | None = None, **changed: object) -> Path:
    """Write a finished run, evaluated every 100 steps, like main.py."""
    folder.mkdir(parents=True)
    args = ARGS | {'exp_name': folder.name, 'seed': seed, 'num_steps': 100 * len(values),
                   'versions': {'torch': folder.name}} | changed
    (folder / 'args.json').write_text(json.dumps({k: v for k, v in args.items() if v != 'absent'}))
    blocks = {'best': max(range(len(values)), key=values.__getitem__), 'last': len(values) - 1}
    (folder / 'results.json').write_text(json.dumps(
        {name: {'step': 100 * i + 100, 'average_mAP': values[i], 'AP': classes or {}, **(more or {})}
         for name, i in blocks.items()}))
    (folder / 'metrics.csv').write_text('step,epoch,average_mAP,video_accuracy\n' + ''.join(
        f'{100 * i + 100},{25 * i + 24},{value},0.5\n' for i, value in enumerate(values)))
    return folder


@pytest.fixture
def three(tmp_path) -> list[Path]:
    return [make_run(tmp_path / f'first-seed{i + 1}', values, i + 1) for i, values in enumerate(THREE)]


def table_of(text: str, head: str) -> list[dict[str, str]]:
    """Return the rows of the text table whose first column is `head`; no cell contains two spaces."""
    lines = iter(text.splitlines())
    names = next(line for line in lines if line.startswith(head + ' ')).replace('  ', '\t').split('\t')
    rows = []
    for line in lines:
        if not line:
            break
        rows.append([cell.strip() for cell in line.replace('  ', '\t').split('\t') if cell.strip()])
    return [dict(zip([name.strip() for name in names if name.strip()], row, strict=True)) for row in rows]


def error_of(capsys, *arguments: object) -> str:
    """Return the only line of a failing command, which prints no table."""
    assert main([*map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.startswith('error: ') and captured.err.count('\n') == 1, captured.err
    return captured.err


@pytest.mark.parametrize('name', ['results.json', 'metrics.csv'])
def test_inputs_are_never_overwritten(three, capsys, name):
    before = (three[1] / name).read_bytes()
    assert 'would be overwritten' in error_of(capsys, *three, '--csv', three[1] / name)
    assert (three[1] / name).read_bytes() == before


# ---- statistics -----------------------------------------------------------------------------------------------------

def test_statistics_of_a_group(three):
    comparison = compare([read_run(folder) for folder in three])
    (group,) = comparison.groups.itertuples()
    best, last = [0.30, 0.28, 0.35], [0.20, 0.26, 0.31]
    assert group.runs == 3 and group.name == 'first'
    assert group.best_of_best == 0.35
    assert group.best == pytest.approx(mean(best)) and group.best_sd == pytest.approx(stdev(best))
    assert group.last == pytest.approx(mean(last)) and group.last_sd == pytest.approx(stdev(last))
    assert group.best_minus_last == pytest.approx((0.10 + 0.02 + 0.04) / 3)
    assert group.late_sd == pytest.approx(mean(stdev(values[2:]) for values in THREE))    # steps 300 and 400 of 400
    assert list(comparison.runs['best_step']) == [200, 300, 300]


def test_late_evaluations_are_those_after_half_of_the_steps(tmp_path):
    run = read_run(make_run(tmp_path / 'odd', [0.1, 0.5, 0.2, 0.4, 0.9]))
    assert run.std_second_half == pytest.approx(stdev([0.2, 0.4, 0.9]))


def test_text_table(three, capsys):
    assert main([*map(str, three)]) == 0
    text = capsys.readouterr().out
    assert text.startswith('Average mAP in percent over tIoU 0.1 0.2 0.3 0.4 0.5 0.6 0.7\n')
    assert table_of(text, 'group') == [{
        'group': 'first', 'runs': '3', 'best of best': '35.00', 'best (mean ± sd)': '31.00 ± 3.61',
        'last (mean ± sd)': '25.67 ± 5.51', 'best - last': '5.33', 'late sd': '2.59'}]
    assert [row['run'] for row in table_of(text, 'run')] == ['first-seed1', 'first-seed2', 'first-seed3']
    line = next(line for line in text.splitlines() if line.startswith('first-seed1'))
    assert line.split() == ['first-seed1', '1', '30.00', '200', '20.00', '400', '10.00', '3.54', '4']
    note = text.splitlines()[-1]
    for column in ('best of best:', 'best:', 'last:', '±', 'late sd', 'test videos'):
        assert column in note
    assert 'group of one run' not in note


def test_one_run_has_no_spread(tmp_path, capsys):
    assert main([str(make_run(tmp_path / 'single', [0.3]))]) == 0
    text = capsys.readouterr().out
    (row,) = table_of(text, 'group')
    assert row['best (mean ± sd)'] == row['last (mean ± sd)'] == '30.00' and row['late sd'] == '-'
    assert 'group of one run' in text


def test_intervals_and_differences_by_seed_are_those_of_students_t(tmp_path):
    values = {'a': [0.30, 0.28, 0.35, 0.31], 'b': [0.33, 0.29, 0.39], 'c': [0.5]}
    runs = [read_run(make_run(tmp_path / f'{name}-seed{seed}', [value + 0.01, value], seed, lr=ord(name)))
            for name, group in values.items() for seed, value in enumerate(group)]
    seeds = compare(runs).seeds
    assert list(seeds['name']) == ['a', 'b', 'b minus a'] and list(seeds['runs']) == [4, 3, 3]
    group = stats.ttest_1samp(values['a'], 0).confidence_interval(0.95)
    assert [seeds['last_low'][0], seeds['last_high'][0]] == pytest.approx([*group])
    pairs = stats.ttest_rel(values['b'], values['a'][:3])
    assert seeds['last'][2] == pytest.approx((0.03 + 0.01 + 0.04) / 3) and np.isnan(seeds['last_p'][0])
    assert [seeds['last_low'][2], seeds['last_high'][2]] == pytest.approx([*pairs.confidence_interval(0.95)])
    assert seeds['last_p'][2] == pytest.approx(pairs.pvalue) and seeds['best_p'][2] == pytest.approx(pairs.pvalue)


@pytest.mark.filterwarnings('error')
def test_equal_differences_have_no_p(tmp_path, capsys):
    folders = [make_run(tmp_path / f'{name}-seed{seed}', [value], seed, lr=lr)
               for name, lr, value in (('a', 1, 0.25), ('b', 2, 0.5)) for seed in (1, 2)]
    assert main([*map(str, folders)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith('b minus a'))
    assert line.split()[3:] == ['2', '25.00', '25.00', 'to', '25.00', '25.00', '25.00', 'to', '25.00']


def published_rows(text: str) -> list[dict[str, str]]:
    return table_of(text, 'published')


def test_published_rows_are_inside_or_outside_of_the_interval(tmp_path, three, capsys):
    """Best until step 100: 10, 20, 15; of all: 30, 28, 35; the interval of one more run is mean +- t s sqrt(4/3)."""
    rows = [{'source': 'log', 'step': 100, 'average_mAP': 0.15}, {'source': 'log', 'step': 199, 'average_mAP': 0.42},
            {'source': 'a\npaper', 'average_mAP': 0.464}, {'source': 'other', 'average_mAP': 0.4}]
    (tmp_path / 'rows.json').write_text(json.dumps(rows))
    assert main([*map(str, three), '--published', str(tmp_path / 'rows.json')]) == 0
    text = capsys.readouterr().out
    log, late, paper, other = published_rows(text)
    assert log == {
        'published': 'log', 'until step': '100', 'mAP': '15.00', 'group': 'first', 'runs': '3',
        'best (mean ± sd)': '15.00 ± 5.00', 'last (mean ± sd)': '-', 'published is': 'inside -9.84 to 39.84'}
    assert late['best (mean ± sd)'] == '15.00 ± 5.00' and late['published is'].startswith('outside ')
    assert paper['published'] == r'a\npaper' and paper['best (mean ± sd)'] == '31.00 ± 3.61'
    assert paper['last (mean ± sd)'] == '25.67 ± 5.51'
    assert paper['published is'].startswith('inside') == (0.464 <= 0.31 + 4.302653 * 0.0360555 * (4 / 3) ** 0.5)
    assert other['published is'].startswith('inside')
    assert main([str(three[0]), '--published', str(tmp_path / 'rows.json')]) == 0
    assert published_rows(capsys.readouterr().out)[0]['published is'] == '-'  # one run has no spread


LABELS = ['BaseballPitch', 'CliffDiving', *(f'class {i}' for i in range(18))]
THUMOS14 = {'classes': {label: {'0.1': 0.5} for label in LABELS},
            'more': {'num_ground_truth_videos': 210, 'num_instances': 3311}}


def test_only_runs_on_thumos14_are_compared_with_its_published_rows(tmp_path, capsys):
    assert main([str(make_run(tmp_path / 'thumos', [0.3], **THUMOS14))]) == 0
    out, err = capsys.readouterr()
    assert [(row['published'][:11], row['until step'], row['mAP']) for row in published_rows(out)] == [
        ('the authors', 'end', '46.40'), ('the authors', 'end', '46.36'), ('log of an u', '50', '31.25'),
        ('log of an u', '250', '42.56'), ('log of an u', 'end', '46.36')] and not err
    for changed in ({'classes': {'class 1': {'0.1': 0.5}}}, {'tiou': [0.5]}, {'dataset': 'activitynet1.3'}):
        assert main([str(make_run(tmp_path / '-'.join(changed), [0.3], **THUMOS14 | changed))]) == 0
        out, err = capsys.readouterr()
        assert 'published' not in out and not err


@pytest.mark.parametrize(('changed', 'reason'), [
    ({'more': {'num_ground_truth_videos': 212, 'num_instances': 3358}}, '212 videos with 3358 instances'),
    ({'more': {'num_ground_truth_videos': 20, 'num_instances': 60}}, '20 videos with 60 instances'),
    ({'more': {'num_ground_truth_videos': 210, 'num_instances': 3310}}, '210 videos with 3310 instances'),
    ({'more': None}, 'does not contain the number'), ({'known_labels': True}, 'with known labels')])
def test_a_run_on_other_test_videos_is_not_compared_and_one_line_gives_the_reason(tmp_path, capsys, changed, reason):
    runs = [make_run(tmp_path / name, [0.3], seed, **THUMOS14 | more)
            for seed, (name, more) in enumerate((('thumos', {}), ('copy', changed)))]
    for folders in runs[1:], runs:
        assert main([*map(str, folders)]) == 0
        out, err = capsys.readouterr()
        assert 'published' not in out.partition('best:')[0] and err.count('\n') == 1
        assert err.startswith('warning: not compared with the published numbers of THUMOS14: copy: ') and reason in err


def test_the_published_test_videos_are_counted_so(tmp_path):
    """Those of both copies of THUMOS14, scored with the authors' detections."""
    gt, detections = read_released()
    scores = evaluate(scored_subset(gt, detections.videos), detections, [0.5])
    assert (scores.num_videos, scores.num_instances) == PUBLISHED_ON
    write_gt_212(tmp_path / 'gt.json')
    scores = evaluate(scored_subset(read_ground_truth(tmp_path / 'gt.json'), detections.videos), detections, [0.5])
    assert (scores.num_videos, scores.num_instances) == (212, 3358)


def test_known_labels_are_marked(tmp_path, capsys):
    known, free = (make_run(tmp_path / name, [0.5], known_labels=value) for name, value in (('a', True), ('b', False)))
    assert main([str(known), '--csv', str(tmp_path / 'a.csv')]) == 0
    out = capsys.readouterr().out
    assert table_of(out, 'group')[0]['known_labels'] == 'true' and 'only the given labels' in out
    assert {row['known_labels'] for row in csv.DictReader(io.StringIO((tmp_path / 'a.csv').read_text()))} == {'true'}
    assert main([str(known), str(free)]) == 0
    assert [row['known_labels'] for row in table_of(capsys.readouterr().out, 'group')] == ['true', 'false']
    assert main([str(free)]) == 0
    assert 'known_labels' not in capsys.readouterr().out


@pytest.mark.parametrize('content', ['{}', '[]', '[{"source": "x"}]', '[{"source": "x", "average_mAP": 46.4}]',
                                     '[{"source": "x", "average_mAP": "high"}]', '[3]', '[{"average_mAP": 0.4}]'])
def test_published_rows_of_another_form_give_one_line(tmp_path, three, capsys, content):
    (tmp_path / 'rows.json').write_text(content)
    assert 'must be a list of {"source"' in error_of(capsys, *three, '--published', tmp_path / 'rows.json')


def test_two_runs_or_two_groups_are_compared_by_class(tmp_path, capsys):
    def run(name, seed, lr, **ap):
        classes = {label: {'0.1': 2 * value, '0.5': 0} for label, value in ap.items()}
        return str(make_run(tmp_path / name, [0.3], seed, classes=classes, lr=lr))

    folders = [run('a-seed1', 1, 1, jump=0.1, run=0.3), run('a-seed2', 2, 1, jump=0.25, run=0.4),
               run('b-seed1', 1, 2, jump=0.3, run=0.2)]
    assert main([*folders[:2], '--classes', 'last']) == 0
    assert table_of(capsys.readouterr().out, 'class (last weights)') == [
        {'class (last weights)': 'jump', 'a-seed1': '10.00', 'a-seed2': '25.00', 'difference': '15.00'},
        {'class (last weights)': 'run', 'a-seed1': '30.00', 'a-seed2': '40.00', 'difference': '10.00'}]
    assert main([*folders, '--classes', 'best']) == 0
    assert table_of(capsys.readouterr().out, 'class (best weights)') == [
        {'class (best weights)': 'jump', 'a': '17.50', 'b': '30.00', 'difference': '12.50'},
        {'class (best weights)': 'run', 'a': '35.00', 'b': '20.00', 'difference': '-15.00'}]
    assert 'contain no AP by class' in error_of(capsys, make_run(tmp_path / 'none', [0.1]), '--classes', 'best')
    broken = make_run(tmp_path / 'broken', [0.1], classes={'x': 3})
    assert '"AP" must have an object of numbers' in error_of(capsys, broken)


# ---- groups ---------------------------------------------------------------------------------------------------------

def test_runs_of_a_group_may_differ_in_the_arguments_listed_in_args_json(tmp_path, capsys):
    differ = ['seed', 'exp_name', 'lr']
    folders = [make_run(tmp_path / name, [0.1], lr=lr, differ=differ, num_workers=workers)
               for name, lr, workers in (('a', 1e-4, 0), ('b', 2e-4, 0), ('c', 1e-4, 4))]
    groups = compare([read_run(folder) for folder in folders])
    assert list(groups.settings) == ['num_workers'] and list(groups.groups['runs']) == [2, 1]
    make_run(tmp_path / 'odd', [0.1], differ='seed')
    assert '"differ" must be a list' in error_of(capsys, folders[0], tmp_path / 'odd')


def test_groups_differ_only_in_relevant_arguments(tmp_path, capsys):
    ours = {'lambda_action': 0.1, 'lambda_contrast': 0.01}
    for i, (name, seed, changed) in enumerate([
            ('full-seed1', 1, ours), ('base-seed1', 1, {'lambda_action': 0.0, 'lambda_contrast': 0.0}),
            ('full-seed2', 2, ours | {'device': 'cuda:1', 'num_workers': 4, 'cache': 'none', 'compile': True,
                                      'resume': True, 'log_every': 50, 'num_epochs': 7}),
            ('base-seed2', 2, {'lambda_action': 0, 'lambda_contrast': 0, 'overwrite': True, 'output_dir': '/x'})]):
        make_run(tmp_path / name, [0.1 * i + 0.1], seed, **changed)
    names = ['full-seed1', 'base-seed1', 'full-seed2', 'base-seed2']
    assert main([str(tmp_path / name) for name in names]) == 0
    text = capsys.readouterr().out
    full, base = table_of(text, 'group')    # in the order of their first runs
    assert list(full)[:4] == ['group', 'lambda_contrast', 'lambda_action', 'runs']    # only those that differ
    assert [full['group'], full['lambda_action'], full['lambda_contrast']] == ['full', '0.1', '0.01']
    assert [base['group'], base['lambda_action'], base['lambda_contrast']] == ['base', '0', '0']
    assert full['best (mean ± sd)'] == '20.00 ± 14.14' and base['best (mean ± sd)'] == '30.00 ± 14.14'
    assert [row['run'] for row in table_of(text, 'run')] == ['full-seed1', 'full-seed2', 'base-seed1', 'base-seed2']


@pytest.mark.parametrize('name, other, shown', [
    ('lr', 2e-4, ['0.0001', '0.0002']),
    ('precision', 'bf16', ['fp32', 'bf16']),
    ('detection_inf_step', 10, ['50', '10']),    # the best of more evaluations is not comparable
    ('soft_nms', False, ['true', 'false']),
    ('tiou', [0.5, 0.75], ['0.1 0.2 0.3 0.4 0.5 0.6 0.7', '0.5 0.75']),
    ('data_path', '/data/two', [str(Path('data/sample').absolute()), '/data/two']),
    ('q_val', 'absent', ['0.7', '-']),
    ('made_up', None, ['-', 'null']),
])
def test_relevant_arguments_make_another_group(tmp_path, capsys, name, other, shown):
    folders = [make_run(tmp_path / 'a', [0.1]), make_run(tmp_path / 'b', [0.2], **{name: other})]
    assert main([*map(str, folders)]) == 0
    text = capsys.readouterr().out
    assert [row[name] for row in table_of(text, 'group')] == shown
    assert ('over tIoU' in text) == (name != 'tiou')


def test_one_data_set_by_two_spellings_of_its_path(tmp_path):
    paths = 'data/sample', './data/../data/sample/', str(Path('data/sample').absolute())
    runs = [read_run(make_run(tmp_path / str(i), [0.1], data_path=path)) for i, path in enumerate(paths)]
    assert len(compare(runs).groups) == 1


@pytest.mark.parametrize('names, group', [
    (['first-seed1', 'first-seed2'], 'first'),
    (['first_seed_1', 'first.seed10'], 'first'),
    (['full-lr2', 'full-lr4'], 'full-lr'),
    (['only'], 'only'),
    (['seed1', 'seed2'], 'seed'),
    (['one', 'two'], 'one ...'),
])
def test_group_names(tmp_path, names, group):
    runs = [read_run(make_run(tmp_path / name, [0.1], seed)) for seed, name in enumerate(names)]
    assert list(compare(runs).groups['name']) == [group]


def test_runs_without_arguments(tmp_path, capsys):
    folders = [make_run(tmp_path / name, [0.1]) for name in ('a', 'b')]
    for folder in folders:
        (folder / 'args.json').write_text('{}')
    assert main([*map(str, folders)]) == 0
    captured = capsys.readouterr()
    assert [row['seed'] for row in table_of(captured.out, 'run')] == ['-', '-'] and not captured.err


def test_a_repeated_seed_is_a_warning_and_a_repeated_folder_is_ignored(tmp_path, capsys):
    first, copy = make_run(tmp_path / 'first', [0.1], 5), make_run(tmp_path / 'copy', [0.1], 5)
    assert main([str(first), f'{first}/', str(tmp_path / 'copy' / '..' / 'first')]) == 0
    captured = capsys.readouterr()
    assert table_of(captured.out, 'group')[0]['runs'] == '1' and not captured.err
    assert main([str(first), str(copy)]) == 0
    warning = capsys.readouterr().err
    assert warning.startswith('warning: first, copy ') and 'seed 5' in warning and warning.count('\n') == 1


# ---- files ----------------------------------------------------------------------------------------------------------

def test_csv_has_groups_and_runs_with_all_digits(tmp_path, three, capsys):
    other = make_run(tmp_path / 'other', [1 / 3, 0.1 + 0.2], lr=1e-3, num_steps=200)
    assert main([*map(str, three), str(other), '--csv', str(tmp_path / 'a.csv')]) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / 'a.csv').read_text())))
    assert [row['kind'] for row in rows] == ['group'] * 2 + ['run'] * 4 + ['seeds']
    assert [row['lr'] for row in rows] == ['0.0001', '0.001', '0.0001', '0.0001', '0.0001', '0.001', '']
    assert [row['num_steps'] for row in rows] == ['400', '200', '400', '400', '400', '200', '']
    first, _, *runs, seeds = rows
    assert float(seeds['best']) == float(first['best']) and float(seeds['best_low']) < 0.3 < float(seeds['best_high'])
    assert first['name'] == 'first' and first['runs'] == '3' and first['seed'] == first['best_step'] == ''
    assert float(first['best_sd']) == pytest.approx(stdev([0.30, 0.28, 0.35]), rel=1e-12)
    expected = {'kind': 'run', 'name': 'other', 'seed': '1', 'runs': '1', 'best_step': '100', 'last_step': '200',
                'evaluations': '2', 'best': repr(1 / 3), 'last': repr(0.1 + 0.2), 'best_sd': '', 'best_of_best': ''}
    assert {name: runs[3][name] for name in expected} == expected


def test_markdown_has_the_cells_of_the_text(tmp_path, three, capsys):
    other = make_run(tmp_path / 'a|b <script>*', [0.1], lr=1e-3)
    assert main([*map(str, three), str(other), '--markdown', str(tmp_path / 'a.md')]) == 0
    text, lines = capsys.readouterr().out, (tmp_path / 'a.md').read_text().splitlines()
    rows = [line.strip('|').replace(r'\|', '\0').split('|') for line in lines if line.startswith('|')]
    rows = [[cell.strip() for cell in row] for row in rows]
    assert rows[1] == ['---'] + ['---:'] * 8
    assert rows[2] == list(table_of(text, 'group')[0].values())
    assert rows[3][0] == 'a\0b \\<script>\\*'
    assert len(rows) == 4 + 2 + 6 + 1 and [len(row) for row in rows] == [9] * 10 + [8] * 3
    assert lines[-1] == text.splitlines()[-1]


def test_latex_has_the_cells_of_the_text_and_comments(tmp_path, three, capsys):
    other = make_run(tmp_path / 'a_b & 50 % {x}^~\\', [0.1], lr=1e-3)
    assert main([*map(str, three), str(other), '--latex', str(tmp_path / 'a.tex')]) == 0
    text, latex = capsys.readouterr().out, (tmp_path / 'a.tex').read_text()
    rule = r' \\\\\n\\hline\n'
    bodies = re.findall(rf'\\begin{{tabular}}{{lr+}}\n\\hline\n(.*?){rule}(.*?){rule}\\end', latex, re.S)
    assert len(bodies) == 3
    cells = bodies[0][1].split(' \\\\\n')[0].replace(r'$\pm$', '±').split(' & ')
    assert cells == list(table_of(text, 'group')[0].values())
    assert r'a\_b \& 50 \% \{x\}\textasciicircum{}\textasciitilde{}\textbackslash{}' in latex
    outside = re.sub(r'\\begin.*?\\end\{tabular\}', '', latex, flags=re.S)
    assert all(line.startswith('% ') for line in outside.splitlines() if line)


def test_other_files_are_not_overwritten_without_overwrite(tmp_path, three, capsys):
    """A typo for --csv RUN/best.csv would destroy weights."""
    weights = three[0] / 'best.pt'
    weights.write_bytes(b'PK\3\4 weights')
    (three[0] / 'losses.csv').write_text('step,epoch,total\n')
    for flag, path in (('--csv', weights), ('--markdown', weights), ('--latex', weights),
                       ('--csv', three[0] / 'losses.csv')):
        before = path.read_bytes()
        assert 'another kind' in error_of(capsys, *three, flag, path)
        assert path.read_bytes() == before
    for flag in '--csv', '--markdown', '--latex':
        for _ in range(2):  # the second time the file of the first
            assert main([*map(str, three), flag, str(tmp_path / f'table{flag}')]) == 0
    assert main([*map(str, three), '--csv', str(weights), '--overwrite']) == 0
    assert weights.read_text().startswith('kind,name,')


def test_a_file_that_cannot_be_written_gives_one_line(tmp_path, three, capsys):
    assert main([*map(str, three), '--csv', str(tmp_path / 'nowhere' / 'a.csv')]) == 2
    assert 'nowhere' in capsys.readouterr().err


# ---- unfinished, damaged and missing runs ---------------------------------------------------------------------------

def test_unfinished_runs_are_excluded_with_a_warning(tmp_path, three, capsys):
    begun = make_run(tmp_path / 'begun', [0.9])
    (begun / 'results.json').unlink()
    (begun / 'metrics.csv').unlink()
    stopped = make_run(tmp_path / 'stopped', [0.9], num_steps=800)
    blind = make_run(tmp_path / 'blind', [0.9])
    (blind / 'results.json').write_text('{"best": {"step": 100}, "last": {"step": 100}}')
    assert main([*map(str, [begun, three[0], stopped, three[1], blind])]) == 0
    captured = capsys.readouterr()
    assert [row['run'] for row in table_of(captured.out, 'run')] == ['first-seed1', 'first-seed2']
    warnings = captured.err.splitlines()
    assert all(line.startswith('warning: ') and line.endswith('it is excluded') for line in warnings)
    reasons = ('begun', 'no results.json'), ('stopped', '100 of 800'), ('blind', 'not annotated')
    for line, (name, reason) in zip(warnings, reasons, strict=True):
        assert name in line and reason in line
    assert 'none of these runs' in error_of(capsys, begun, stopped)


@pytest.mark.parametrize('epochs, finished', [(100, True), (101, False), (900, False)])
def test_runs_planned_in_epochs(tmp_path, three, capsys, epochs, finished):
    """Steps 100 to 400 at epochs 24 to 99, counted from 0: 4 steps per epoch."""
    run = make_run(tmp_path / 'epochs', [0.1, 0.2, 0.3, 0.4], num_steps=None, num_epochs=epochs)
    assert main([str(run), str(three[0])]) == 0
    out, err = capsys.readouterr()
    assert (f'of {4 * epochs}' in err) != finished and 'null' not in out  # the unset num_steps is absent


@pytest.mark.parametrize('name, content, complaint', [
    ('args.json', None, 'is not a training run'),    # as after --inference_only
    ('args.json', '{"seed": 1', 'not a valid JSON file'),
    ('args.json', '[]', 'object of arguments'),
    ('results.json', '', 'empty'),
    ('results.json', '{"best": {"st', 'not a valid JSON file'),
    ('results.json', '{"average_mAP": 0.5}', 'not results of a training run'),
    ('results.json', '{"best": {"step": 1, "average_mAP": 0.5}}', '"last"'),
    ('results.json', '{"best": {"step": 1, "average_mAP": "0.5"}}', 'average_mAP'),
    ('results.json', '{"best": {"step": 1, "average_mAP": NaN}}', 'average_mAP'),
    ('results.json', '[1]', 'not results of a training run'),
    ('metrics.csv', None, 'cannot be read'),
    ('metrics.csv', '', 'not a table'),
    ('metrics.csv', 'step,epoch,average_mAP\n', 'damaged'),
    ('metrics.csv', 'step,epoch\n100,3\n', 'not a table'),
    ('metrics.csv', 'step,epoch,average_mAP\n100,3\n', 'damaged'),
    ('metrics.csv', 'step,epoch,average_mAP\n100,3,inf\n', 'damaged'),
    ('metrics.csv', 'step,epoch,average_mAP\n100,-1,0.5\n', 'damaged'),
    ('metrics.csv', 'step,epoch,average_mAP\n100,3,many\n', 'not a table'),
    ('metrics.csv', 'step,epoch,average_mAP\n100,3,0.5\n', 'results.json, 400'),
    ('metrics.csv', 'step,epoch,average_mAP\n400,99,0.5,7\n', 'results.json, 400'),
    ('metrics.csv', b'\xff\xfe\x00', 'not a table'),
])
def test_damaged_runs_give_one_line(tmp_path, three, capsys, name, content, complaint):
    if content is None:
        (three[1] / name).unlink()
    else:
        (three[1] / name).write_bytes(content if type(content) is bytes else content.encode())
    message = error_of(capsys, *three)
    assert str(three[1]) in message and complaint in message


def test_tables_next_to_the_runs_are_ignored(tmp_path, three, capsys):
    tables = [tmp_path / 'first-seeds.csv', tmp_path / 'first-seeds.md']
    assert main([*map(str, three), '--csv', str(tables[0]), '--markdown', str(tables[1])]) == 0
    expected = capsys.readouterr().out
    assert main([*map(str, three), *map(str, tables)]) == 0
    assert capsys.readouterr().out == expected
    assert 'is not a folder' in error_of(capsys, tables[0])


def test_missing_folders_and_files_are_an_error(tmp_path, three, capsys):
    assert 'is not a folder' in error_of(capsys, three[0], tmp_path / 'nowhere')
    assert 'is not a folder' in error_of(capsys, three[0] / 'args.json')
    (tmp_path / 'empty' / 'sub').mkdir(parents=True)
    assert 'is not a training run' in error_of(capsys, tmp_path / 'empty')


def test_a_folder_of_runs_is_replaced_by_the_runs_in_it(tmp_path, three, capsys):
    (tmp_path / 'localized').mkdir()
    (tmp_path / 'localized' / 'inference_args.json').write_text('{}')
    make_run(tmp_path / 'deep' / 'er' / 'run', [0.9])
    (tmp_path / 'notes.txt').write_text('')
    assert main([str(tmp_path), str(three[0])]) == 0
    assert [row['run'] for row in table_of(capsys.readouterr().out, 'run')] == [folder.name for folder in three]


def test_odd_names_and_values_are_escaped(tmp_path, capsys):
    odd = make_run(tmp_path / 'two\nlines \x1b[31m', [0.1], name='a\nb', best='\udc80', kind=[1, 'x'], runs={'a': 1})
    plain = make_run(tmp_path / 'plain', [0.2], name='c', best=2, kind=None, runs=3)
    assert main([str(odd), str(plain), '--csv', str(tmp_path / 'a.csv'), '--markdown', str(tmp_path / 'a.md')]) == 0
    text = capsys.readouterr().out
    assert r'two\nlines \x1b[31m' in text and r'a\nb' in text and r'\udc80' in text and '\x1b' not in text


def test_the_command(tmp_path, three):
    command = [sys.executable, '-m', 'eval.summary']
    ended = subprocess.run([*command, *map(str, three)], cwd=ROOT, capture_output=True, text=True, encoding='utf-8')
    assert ended.returncode == 0 and '31.00 ± 3.61' in ended.stdout and not ended.stderr
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stderr.startswith('error: ') and ended.stderr.count('\n') == 1
