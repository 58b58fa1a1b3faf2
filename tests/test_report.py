"""The report page: its file, and the page in a headless Chromium."""
import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from browser import Browser, find_browser
from golden_data import read_released

import eval.detection
import eval.diagnosis
import eval.report
from config import default_values
from eval.curves import Curves, pick_curves, write_curves
from eval.detection import best_threshold, evaluate, scored_subset
from eval.report import build_report, main
from formats.annotations import match_videos, read_ground_truth, select_videos
from formats.detections import read_detections
from scripts.make_sample import write_sample
from utils import InputError, write_text

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = '</script><script>window.hacked = 1</script><!--'
LABELS = [HOSTILE, '<img src=x onerror="window.hacked=2">', 'Run', 'x' * 300]
VIDEOS = ['a<b>&amp;"\'', 'b</script>', 'c', 'd', 'e' * 200, 'f\u2028\u202e']
UNKNOWN = '<svg onload=window.hacked=3>'  # a video that the ground truth does not contain
TIOU = (0.3, 0.5, 0.7)


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> Path:
    """A folder with gt.json, detections.json and curves.npz of six annotated videos, with hostile names."""
    folder, rng = tmp_path_factory.mktemp('report'), np.random.default_rng(0)
    gt, results = {}, {UNKNOWN: [{'label': 'Run', 'score': 0.9, 'segment': [0, 5]}]}
    for v, video in enumerate(VIDEOS):
        own = [LABELS[v % 4]] + [LABELS[(v + 1) % 4]] * (v % 2)
        starts = np.arange(6) * 15 + rng.random(6) * 5
        gt[video] = {'subset': 'test', 'duration': 100, 'annotations': [
            {'label': own[i % len(own)], 'segment': [start, start + 4 + 4 * rng.random()]}
            for i, start in enumerate(starts)]}
        rows = []
        for annotation in gt[video]['annotations'] * 6:
            shift = rng.normal(0, 1 + v, 2)
            start, end = np.sort(np.array(annotation['segment']) + shift)
            score = round(rng.normal(0.4, 0.3), 3)
            rows.append({'label': annotation['label'], 'score': score, 'segment': [start, end + 0.1]})
        rows[0]['score'] = 0.3
        rows.append({'label': 'not <b>annotated</b>', 'score': 0.5, 'segment': [1, 2]})
        results[video] = rows
    (folder / 'gt.json').write_text(json.dumps({'database': gt}))
    (folder / 'detections.json').write_text(json.dumps({'results': results}))
    annotated = [{row['label'] for row in gt[video]['annotations']} for video in VIDEOS]
    keep = np.array([[label in own for label in sorted(LABELS)] for own in annotated])
    waves = rng.random((6, 60, 4)).cumsum(axis=1) % 1
    write_curves(folder / 'curves.npz', pick_curves(
        VIDEOS, sorted(LABELS), np.full(6, 100 / 60), np.full(6, 157), waves[..., 0], waves[..., 1], waves,
        20 * waves - 5, keep))
    return folder


@pytest.fixture(scope='module')
def page(files) -> Path:
    """The report of these files, written by the command."""
    path = files / 'report.html'
    command = [sys.executable, '-m', 'eval.report', files / 'gt.json', files / 'detections.json',
               '--curves', files / 'curves.npz', '--tiou', *map(str, TIOU), '-o', path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope='module')
def results(files) -> dict:
    return json.loads((files / 'detections.json').read_text())['results']


@pytest.fixture(scope='module')
def chromium(tmp_path_factory):
    executable = find_browser()
    if not executable:
        pytest.skip('needs Chromium (Debian, Ubuntu: apt-get install chromium)')
    browser = Browser(executable, tmp_path_factory.mktemp('profile'))
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium, page):
    """The browser with the page open; after the test nothing may have been logged as an error or loaded."""
    chromium.open(page)
    yield chromium
    assert chromium.errors == []
    assert chromium.requests == [page.resolve().as_uri()]


def set_control(browser: Browser, selector: str, value: object) -> None:
    """Set a slider, a field or a list as a user does, with its event."""
    browser.run(f'''(() => {{
        const control = document.querySelector({json.dumps(selector)});
        control.value = {json.dumps(value)};
        control.dispatchEvent(new Event(control.matches('select') ? 'change' : 'input', {{bubbles: true}}));
        }})()''')


def text_of(browser: Browser, selector: str) -> str:
    return browser.run(f'document.querySelector({json.dumps(selector)}).textContent')


def texts_of(browser: Browser, selector: str) -> list[str]:
    return browser.run(f'[...document.querySelectorAll({json.dumps(selector)})].map(element => element.textContent)')


def count(browser: Browser, selector: str) -> int:
    return browser.run(f'document.querySelectorAll({json.dumps(selector)}).length')


def shown_video(browser: Browser) -> str:
    return text_of(browser, '#viewer h3')


def listed_videos(browser: Browser) -> list[str]:
    return texts_of(browser, '#list b')


# ---- the file -------------------------------------------------------------------------------------------------------

class Elements(HTMLParser):
    """The tags, scripts and styles of a page."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self.policy, self.style, self.inside = [], [], '', '', None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.inside = tag
        if tag == 'script':
            self.scripts.append('')
        if attributes.get('http-equiv') == 'Content-Security-Policy':
            self.policy = attributes['content']

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, content):
        if self.inside == 'script':
            self.scripts[-1] += content
        elif self.inside == 'style':
            self.style += content


def test_labels_stay_inside_the_data_and_no_other_script_is_allowed(page):
    found = Elements(page.read_text())
    assert [attributes.get('type') for tag, attributes in found.tags if tag == 'script'] == ['application/json', None]
    assert set(json.loads(found.scripts[0])['labels']) == {*LABELS, 'not <b>annotated</b>'}
    assert '<' not in found.scripts[0]

    def source(kind):
        return re.search(f"{kind}-src ([^;]*)", found.policy)[1].strip()

    for kind, content in (('script', found.scripts[1]), ('style', found.style)):
        assert source(kind) == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    assert source('default') == "'none'" and source('img') == 'data:'


def test_the_page_links_to_nothing_else(page):
    for tag, attributes in Elements(page.read_text()).tags:
        for name in ('src', 'href', 'action', 'data', 'poster', 'srcset'):
            assert attributes.get(name, '#').startswith(('#', 'data:')), (tag, attributes)
    assert not re.search(r'https?://(?!www\.w3\.org/2000/svg)', page.read_text())


def test_same_input_gives_the_same_page(files):
    gt, detections = read_ground_truth(files / 'gt.json'), read_detections(files / 'detections.json')
    assert build_report(gt, detections, TIOU, title='once') == build_report(gt, detections, TIOU, title='once')


def test_detections_are_matched_and_classified_once(files, monkeypatch):
    calls = []
    for name in ('match', 'classify_errors'):
        real = getattr(eval.diagnosis, name)
        for module in (eval.detection, eval.diagnosis):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda *all, name=name, real=real: calls.append(name) or real(*all))
    build_report(read_ground_truth(files / 'gt.json'), read_detections(files / 'detections.json'), TIOU)
    assert sorted(calls) == ['classify_errors', 'match']


def test_a_title_is_text(files):
    gt, detections = read_ground_truth(files / 'gt.json'), read_detections(files / 'detections.json')
    text = build_report(gt, detections, TIOU, title='<script>alert(1)</script> @data@ \udcff')
    assert '<script>alert' not in text and text.count('&lt;script&gt;alert(1)') == 2
    text.encode()


def test_curves_of_another_data_set_are_refused(files):
    gt, detections = read_ground_truth(files / 'gt.json'), read_detections(files / 'detections.json')
    other = Curves(['z'], ['Run'], np.ones(1), np.ones(1, int), *np.zeros((2, 1, 5), np.float32),
                   *np.zeros((2, 1), int), *np.zeros((2, 1, 5), np.float16))
    with pytest.raises(InputError, match='none of the videos'):
        build_report(gt, detections, TIOU, other)


@pytest.mark.parametrize('arguments, message', [
    (['missing.json', 'detections.json', '-o', 'r.html'], 'missing.json'),
    (['gt.json', 'detections.json', '-o', 'nowhere/r.html'], 'nowhere/r.html'),
    (['gt.json', 'detections.json', '-o', 'r.html', '--curves', 'gt.json'], 'gt.json'),
    (['gt.json', 'detections.json', '-o', 'r.html', '--tiou', '2'], 'tIoU'),
    (['gt.json', 'detections.json', '-o', 'r.html', '--subset', 'training'], 'training'),
    (['gt.json', 'detections.json'], '--output'),
    (['detections.json', '-o', 'r.html', '--subset', 'test'], '--subset'),
    (['detections.json', '-o', 'r.html', '--tiou', '0.5'], '--tiou'),
    (['detections.json', '-o', 'r.html', '--bins', 'activitynet'], '--bins'),
])
def test_bad_usage_is_one_line_and_status_2(files, capsys, arguments, message):
    try:
        status = main([str(files / a) if a.endswith(('.json', '.html')) else a for a in arguments])
    except SystemExit as end:
        status = end.code
    printed = capsys.readouterr().err
    assert status == 2 and message in printed
    assert printed.startswith('error: ') and printed.count('\n') == 1


# ---- the page in a browser ------------------------------------------------------------------------------------------

def test_opens_without_errors_and_hostile_names_are_only_text(browser):
    assert browser.run('window.hacked') is None
    assert count(browser, 'script') == 2
    assert count(browser, 'img, b b, svg[onload]') == 0
    assert set(listed_videos(browser)) == {*VIDEOS, UNKNOWN}
    classes = texts_of(browser, '.ap tbody th')
    assert sorted(classes) == sorted(LABELS)
    for label in range(-1, 5):  # every label, everywhere it is shown
        set_control(browser, '#label', label)
    for row in range(4):
        browser.run(f"document.querySelectorAll('.ap tbody tr')[{row}].click()")
    assert browser.run('window.hacked') is None


def test_numbers_are_those_of_the_scorer(browser, files):
    scores = evaluate(read_ground_truth(files / 'gt.json'), read_detections(files / 'detections.json'), TIOU)
    shown = texts_of(browser, '.map td')
    assert shown == [f'{100 * value:.2f}' for value in scores.mean_ap]
    assert text_of(browser, '.tiles b') == f'{100 * scores.average:.2f}'
    cells = texts_of(browser, '.ap tbody tr > *')
    rows = [cells[i:i + 6] for i in range(0, len(cells), 6)]
    averages = scores.ap.mean(axis=1)
    assert [row[0] for row in rows] == [scores.labels[c] for c in np.argsort(-averages, kind='stable')]
    for name, _, *numbers in rows:
        c = scores.labels.index(name)
        expected = 100 * np.array([averages[c], *scores.ap[c]])
        np.testing.assert_allclose([float(number) for number in numbers], expected, atol=0.0501)


def test_slider_shows_the_detections_above_its_threshold(browser, results):
    for threshold in (0.3, 0.55, 2.0, -5.0):
        set_control(browser, '#threshold', threshold)
        set_to = float(browser.run("document.querySelector('#threshold').value"))  # within the range of the slider
        own = sum(row['score'] >= set_to for row in results[shown_video(browser)])
        everywhere = sum(row['score'] >= set_to for rows in results.values() for row in rows)
        assert text_of(browser, '#shown b') == str(own)
        assert count(browser, '.hit') == own
        assert f'({everywhere} of ' in text_of(browser, '#shown')
    assert own == len(results[shown_video(browser)]) > 0


def test_class_filter_selects_its_videos_and_its_detections(browser, files, results):
    labels = sorted(LABELS) + ['not <b>annotated</b>']
    database = json.loads((files / 'gt.json').read_text())['database']
    set_control(browser, '#threshold', -5)
    for label, name in enumerate(labels):
        set_control(browser, '#label', label)
        expected = [video for video in [*VIDEOS, UNKNOWN] if any(
            row['label'] == name for row in results[video] + database.get(video, {}).get('annotations', []))]
        assert listed_videos(browser) == expected
        own = sum(row['label'] == name for row in results[shown_video(browser)])
        assert count(browser, '.hit') == own
        assert browser.run("document.querySelectorAll('#timeline .block > p b')[0].textContent") == name
    set_control(browser, '#label', -1)
    assert len(listed_videos(browser)) == 7


def test_search_selects_videos_by_name(browser):
    set_control(browser, '#search', '</SCRIPT')
    assert listed_videos(browser) == [VIDEOS[1]] and shown_video(browser) == VIDEOS[1]
    set_control(browser, '#search', 'no such name')
    assert text_of(browser, '#list') == 'No matching video.'


def test_a_type_of_detections_can_be_hidden(browser):
    counts = [int(button.split()[-1]) for button in texts_of(browser, '.types button')]
    assert sum(counts) == count(browser, '.hit')
    error_type = int(np.argmax(counts))
    browser.run(f"document.querySelectorAll('.types button')[{error_type}].click()")
    assert count(browser, '.hit') == sum(counts) - counts[error_type]
    assert count(browser, f'.hit.type{error_type}') == 0


def test_videos_sorted_by_ap_and_their_ap_are_those_of_the_scorer(browser, files):
    gt, detections = read_ground_truth(files / 'gt.json'), read_detections(files / 'detections.json')
    index, own = match_videos(VIDEOS, gt.videos), {}
    for video, v in zip(VIDEOS, index):
        rows = np.flatnonzero(np.array(detections.videos, object)[detections.video] == video)
        alone = detections._replace(video=detections.video[rows], label=detections.label[rows],
                                    segments=detections.segments[rows], scores=detections.scores[rows])
        own[video] = evaluate(select_videos(gt, np.arange(6) == v), alone, [0.5]).average
    set_control(browser, '#sort', 1)
    assert listed_videos(browser) == sorted(VIDEOS, key=own.get) + [UNKNOWN]
    for video in VIDEOS:
        browser.run(f"document.querySelectorAll('.video')[{listed_videos(browser).index(video)}].click()")
        shown = float(re.search(r'AP ([\d.]+) %', text_of(browser, '#viewer .facts'))[1])
        assert shown == pytest.approx(100 * own[video], abs=0.0501)


def test_keys_move_through_videos_but_not_while_typing(browser):
    names = listed_videos(browser)
    assert shown_video(browser) == names[0]
    browser.press('j')
    browser.press('j')
    assert shown_video(browser) == names[2]
    browser.press('k')
    assert shown_video(browser) == names[1]
    assert text_of(browser, '.video[aria-selected=true] b') == names[1]
    browser.run("document.querySelector('#search').focus()")
    browser.press('j')  # is typed into the search field now
    assert browser.run("document.activeElement.id + document.querySelector('#search').value") == 'searchj'


def test_a_class_and_an_error_type_link_to_their_videos(browser):
    name = browser.run("document.querySelector('#pr figcaption').firstChild.textContent")
    browser.run("document.querySelector('#pr button').click()")
    assert text_of(browser, '#label option:checked') in (name, name[:60] + '…')
    assert text_of(browser, '#sort option:checked') == 'by lowest AP'
    assert browser.run("document.querySelector('#videos').getBoundingClientRect().top") < 800
    browser.run("document.querySelector('#gain .type3').dispatchEvent(new Event('click'))")
    assert text_of(browser, '#sort option:checked') == 'by most errors: localization'
    counts = browser.run("listed.map(video => summaries[video].counts[3])")
    assert len(counts) == 7 and counts[:6] == sorted(counts[:6], reverse=True)


def test_zoom_by_mouse_and_keys(browser):
    def view():
        return browser.run('[state.from, state.to]')

    browser.run("document.getElementById('videos').scrollIntoView()")
    assert view() == [0, 100]
    browser.press('+')
    assert view() == [25, 75]
    browser.press('ArrowRight')
    assert view() == [37.5, 87.5]
    browser.press('0')
    x, y, width = browser.run("(() => { const box = document.querySelector('#timeline').getBoundingClientRect();"
                              'return [box.left + LEFT, box.top + 120, plotWidth]; })()')
    browser.mouse('mouseMoved', x + 0.2 * width, y)
    browser.mouse('mousePressed', x + 0.2 * width, y, button='left', clickCount=1)
    browser.mouse('mouseMoved', x + 0.6 * width, y, buttons=1)
    browser.mouse('mouseReleased', x + 0.6 * width, y, button='left', clickCount=1)
    assert view() == pytest.approx([20, 60], abs=0.5)
    inside = browser.run("[...document.querySelectorAll('.hit')].every(bar => bar.x.baseVal.value >= LEFT)")
    assert inside


def test_tooltip_of_a_detection(browser, results):
    browser.run("document.getElementById('timeline').scrollIntoView({block: 'center'})")
    x, y = browser.run("(() => { const box = [...document.querySelectorAll('.hit')].at(-1).getBoundingClientRect();"
                       'return [box.x + box.width / 2, box.y + box.height / 2]; })()')
    browser.mouse('mouseMoved', x, y)
    label, segment, error_type, overlap = text_of(browser, '#tooltip').split('\n')
    score = max(row['score'] for row in results[shown_video(browser)] if row['label'] == label)
    assert segment.endswith(f'score {score:.3f}') and error_type in browser.run('data.types')
    assert overlap.startswith(('tIoU 0.', 'overlaps no instance'))


@pytest.mark.parametrize('width, height, dark', [(1280, 800, False), (390, 844, True), (768, 1024, False)])
def test_fits_the_window_in_light_and_dark(chromium, page, width, height, dark):
    chromium.open(page, width, height, dark)
    assert chromium.run('document.documentElement.scrollWidth') == width
    background = chromium.run('getComputedStyle(document.body).backgroundColor')
    assert (sum(map(int, re.findall(r'\d+', background)[:3])) < 200) == dark
    assert chromium.errors == []


def test_a_window_without_width_breaks_nothing(chromium, page):
    chromium.open(page)
    chromium.run("document.body.style.width = '0'; drawAll()")
    assert chromium.run("document.querySelector('#timeline').clientWidth") < 40  # less than its margins
    chromium.run("document.body.style.width = ''; drawAll()")
    assert chromium.run("document.querySelector('#broken').hidden") and chromium.errors == []


def test_texts_of_drawings_stay_inside_their_card_on_a_phone(chromium, page):
    chromium.open(page, 390, 844)
    assert chromium.run('''[...document.querySelectorAll('.card svg text')].filter(text => {
        const [own, card] = [text, text.closest('.card')].map(box => box.getBoundingClientRect());
        return own.width && (own.left < card.left || own.right > card.right);
    }).map(text => text.textContent)''') == []


@pytest.mark.parametrize('scale', [0, 1e-4, 1e5])
def test_opens_with_few_detections_and_scores_of_any_size(chromium, tmp_path, scale):
    rows = [{'label': 'Run', 'score': scale * i, 'segment': [i, i + 1.5]} for i in range(4)] if scale else []
    gt, results, page = (tmp_path / name for name in ('gt.json', 'detections.json', 'report.html'))
    gt.write_text(json.dumps({'database': {'a': {'annotations': [{'label': 'Run', 'segment': [1, 1]}]}}}))
    results.write_text(json.dumps({'results': {'a': rows}}))
    assert main([str(gt), str(results), '--tiou', '0.5', '-o', str(page)]) == 0
    chromium.open(page)
    assert count(chromium, '.hit') == len(rows) and chromium.errors == []
    set_control(chromium, '#threshold', 1.5 * scale)
    assert count(chromium, '.hit') == len(rows) / 2


def test_thumos14_is_small_and_opens_quickly(chromium, tmp_path):
    gt, detections = read_released()
    path = tmp_path / 'thumos14.html'
    write_text(path, build_report(scored_subset(gt, detections.videos), detections))
    assert path.stat().st_size < 3e6

    def seconds_to_open() -> float:
        begin = time.monotonic()
        chromium.open(path)
        assert chromium.run('listed.length') == 210 and count(chromium, '.video') > 10
        return time.monotonic() - begin

    assert any(seconds_to_open() < 2 for _ in range(3))  # other processes may slow one down
    assert chromium.errors == []
    set_control(chromium, '#threshold', 0.25)
    reached, own = detections.scores >= 0.25, detections.videos.index(shown_video(chromium))
    assert count(chromium, '.hit') == (reached & (detections.video == own)).sum()
    assert f'({reached.sum():,} of 36,195' in text_of(chromium, '#shown')
    # The numbers of DETAD's own code for these detections at tIoU 0.5.
    legend = text_of(chromium, '#profile .legend')
    shares = {'true positive': 7.76, 'double detection': 21.04, 'wrong label': 3.12, 'localization': 29.90,
              'confusion': 3.60, 'background': 34.58}
    for error_type, share in shares.items():
        assert float(re.search(rf'{error_type} ([\d.]+) %', legend)[1]) == pytest.approx(share, abs=0.02)


# ---- order and initial values ---------------------------------------------------------------------------------------

def test_the_average_over_all_thresholds_is_first_and_largest(chromium, files, tmp_path):
    gt, detections = (read(files / name) for read, name in (
        (read_ground_truth, 'gt.json'), (read_detections, 'detections.json')))
    tiou = [i / 10 for i in range(1, 8)]
    path = tmp_path / 'r.html'
    write_text(path, build_report(gt, detections, tiou, title='my run', subtitle='step 3 <of> 5'))
    chromium.open(path)
    scores = evaluate(gt, detections, tiou)
    assert text_of(chromium, '.tiles div') == f'{100 * scores.average:.2f}average mAP (%)\ntIoU 0.1:0.7'
    sizes = chromium.run("[...document.querySelectorAll('.tiles b')].map(b =>"
                         'parseFloat(getComputedStyle(b).fontSize))')
    assert len(sizes) == 3 and sizes[0] > max(sizes[1:])
    assert text_of(chromium, 'h1') == 'my run step 3 <of> 5'


def test_the_initial_threshold_has_the_best_f1_and_leaves_detections_in_most_videos(browser, files):
    gt, detections = read_ground_truth(files / 'gt.json'), read_detections(files / 'detections.json')
    begin = float(browser.run("document.querySelector('#threshold').value"))
    best = best_threshold(gt, detections, 0.5).score
    least = min(detections.scores[detections.video == video].max() for video in range(len(detections.videos)))
    assert begin == pytest.approx(np.floor(min(best, least) / browser.run('step')) * browser.run('step'))
    for name in listed_videos(browser):
        browser.run(f"document.querySelectorAll('.video')[{listed_videos(browser).index(name)}].click()")
        assert count(browser, '.hit') > 0


def test_annotated_classes_come_first_and_the_others_are_folded(browser, results, files):
    database = json.loads((files / 'gt.json').read_text())['database']
    name = shown_video(browser)
    annotated = {row['label'] for row in database[name]['annotations']}
    best = {label: max(row['score'] for row in results[name] if row['label'] == label) for label in annotated}
    blocks = texts_of(browser, '#timeline > .block > p > b')
    assert blocks == sorted(annotated, key=best.get, reverse=True) + ['Actionness']
    assert text_of(browser, '.others summary') == '1 more class detected, not annotated here: not <b>annotated</b> 0.50'
    assert browser.run("document.querySelector('.others').open") is False
    browser.run("document.querySelector('.others summary').click()")
    browser.run('new Promise(done => setTimeout(done, 50))')
    set_control(browser, '#threshold', 0.3)
    assert browser.run("document.querySelector('.others').open") is True  # also after drawing again


def test_a_panel_grows_with_its_number_of_detections(browser):
    def height():
        return browser.run("document.querySelector('.block svg').clientHeight")

    heights = []
    for threshold in (-5, 0.3, 5):
        set_control(browser, '#threshold', threshold)
        heights.append(height())
    assert heights[0] > heights[1] > heights[2]


def test_the_dashed_line_crosses_no_number_of_a_bar(browser):
    crossed = browser.run('''['#missed', '#sensitivity'].map(id => {
        const line = document.querySelector(id + ' .reference').getBBox().y;
        return [...document.querySelectorAll(id + ' text.strong')].filter(text => {
            const box = text.getBBox();
            return box.y + 2 < line && line < box.y + box.height - 3; }).length; })''')
    assert crossed == [0, 0]


def test_shares_name_their_total_and_every_error_type_is_defined(browser):
    assert 'N is its number of instances' in text_of(browser, '#profile figcaption')
    assert text_of(browser, '.legend-title') == 'Among the 10 N best; α is the chosen tIoU threshold:'
    browser.run("document.querySelector('#profile .type').dispatchEvent(new Event('pointermove'))")
    assert text_of(browser, '#tooltip').endswith('of the N best')
    definitions = texts_of(browser, '#profile .legend dd')
    assert texts_of(browser, '.meaning dd')[:6] == definitions and len(definitions) == 6
    assert definitions[3] == '0.1 ≤ tIoU < α with an instance of its class'
    assert browser.run("[...document.querySelectorAll('.types button')].every(button => button.title)")


# ---- the training run, and marks ------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def run_folder(tmp_path_factory) -> Path:
    """A folder like that of a training run of 1,000 steps with three evaluations."""
    folder = tmp_path_factory.mktemp('runs') / 'third try'
    folder.mkdir()
    args = default_values('own') | {'data_path': '/data/kitchen', 'num_segments': 60, 'lr': 3e-3, 'output_dir': 'x'}
    args['versions'] = {'commit': '0123456789' * 4 + '-dirty', 'torch': '2.9'}
    (folder / 'args.json').write_text(json.dumps(args))
    (folder / 'losses.csv').write_text('step,epoch,total,mil,gce_flow\n' + ''.join(
        f'{step},0,{4 if step <= 500 else 2},{1 / step},0\n' for step in range(1, 1001)))
    (folder / 'metrics.csv').write_text('step,epoch,average_mAP,mAP@0.3,mAP@0.5,mAP@0.7\n'
                                        '400,0,0.3,0.4,0.3,0.2\n700,1,0.5,0.6,0.5,0.4\n1000,2,0.4,0.5,0.4,0.3\n')
    (folder / 'results.json').write_text('{"best": {"step": 700}, "last": {"step": 1000}}')
    return folder


def test_losses_map_and_settings_of_the_training_run_are_shown(chromium, files, run_folder, tmp_path):
    assert main([str(files / 'gt.json'), str(files / 'detections.json'), '--tiou', *map(str, TIOU), '--run',
                 str(run_folder), '-o', str(tmp_path / 'r.html')]) == 0
    chromium.open(tmp_path / 'r.html')
    assert text_of(chromium, 'h1').strip() == 'kitchen · third try'  # and no name of a recipe
    assert texts_of(chromium, '#metrics small span')[-2:] == ['best weights: 50.00 % at step 700',
                                                              'last weights: 40.00 % at step 1,000']
    cells = texts_of(chromium, '#settings tr > *')
    rows = [cells[i:i + 3] for i in range(0, len(cells), 3)]
    assert rows[0] == ['setting', 'here', 'default']
    assert sorted(rows[1:]) == [['lr', '0.003', '0.0003'], ['num_segments', '60', 'unset']]
    assert text_of(chromium, '#settings .note') == 'commit 0123456789-dirty · torch 2.9'
    assert texts_of(chromium, '.panels b') == ['mil']  # gce_flow is 0 everywhere: a run on one stream

    # Each line begins and ends at the pixels of its values: 0 is at the bottom, 60 (or 4) near the top.
    def ends(selector):
        return chromium.run(f"""(() => {{ const paths = [...document.querySelectorAll('{selector} path')];
            return paths.map(path => [0, path.getTotalLength()].map(at => path.getPointAtLength(at).y)); }})()""")

    def height(selector, label):
        return chromium.run(f"""Number([...document.querySelectorAll('{selector} text')].find(
            text => text.textContent === '{label}').getAttribute('y')) - 4""")

    zero, forty = height('#metrics', '0'), height('#metrics', '40')
    expected = [[0.3, 0.4], [0.3, 0.4]]  # of the chosen tIoU 0.5 and the average, which are drawn last
    assert ends('#metrics')[-2:] == pytest.approx(
        np.array([[zero - 100 * value / 40 * (zero - forty) for value in pair] for pair in expected]), abs=0.2)
    zero, two = height('#loss', '0'), height('#loss', '2')
    assert ends('#loss')[0] == pytest.approx([2 * two - zero, two], abs=0.2)
    assert text_of(chromium, '#loss small') == 'steps 1 to 1,000; a point is the mean of 4 steps'
    chromium.run("document.querySelectorAll('#tiou input')[2].click()")
    assert texts_of(chromium, '#metrics small span')[1] == 'tIoU 0.7'
    assert chromium.errors == []


def test_a_run_without_evaluations_or_losses_has_no_empty_charts(chromium, files, run_folder, tmp_path):
    folder = Path(shutil.copytree(run_folder, tmp_path / 'run'))
    (folder / 'metrics.csv').write_text('step,epoch,average_mAP,mAP@0.3\n')
    (folder / 'losses.csv').write_text('step,epoch,total\n')
    assert main([str(files / 'detections.json'), '--run', str(folder), '-o', str(tmp_path / 'r.html')]) == 0
    chromium.open(tmp_path / 'r.html')
    assert [chromium.run(f"document.querySelector('{name}').getClientRects().length")
            for name in ('#metrics', '#loss', '#terms', '#training')] == [0, 0, 0, 1]


def test_a_page_without_a_run_has_no_training_section(browser):
    assert browser.run("getComputedStyle(document.querySelector('#training')).display") == 'none'
    assert text_of(browser, '.marks') == ''


@pytest.mark.parametrize('name, content', [
    ('args.json', '[]'), ('args.json', '{"dataset": "nothing"}'), ('args.json', '{"dataset": "own", "tiou": ["a"]}'),
    ('losses.csv', 'step,total\n1,x\n'), ('metrics.csv', 'step,average_mAP\n1,0.5\n2\n'),
    ('losses.csv', 'total\n1\n'), ('losses.csv', 'step,total\ninf,1\n')])
def test_a_damaged_run_is_one_line_and_status_2(files, run_folder, tmp_path, capsys, name, content):
    folder = Path(shutil.copytree(run_folder, tmp_path / 'run'))
    (folder / name).write_text(content)
    assert main([str(files / 'detections.json'), '--run', str(folder), '-o', str(tmp_path / 'r.html')]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f'error: {folder / name}: ') and error.count('\n') == 1


def test_synthetic_data_known_labels_and_scores_over_1_are_stated(chromium, files, tmp_path):
    assert write_sample(tmp_path / 'sample')
    gt = read_ground_truth(tmp_path / 'sample' / 'gt.json')
    assert build_report(gt, read_detections(files / 'detections.json')).count('<b class="mark"') == 1
    content = json.loads((files / 'gt.json').read_text()) | {'version': 'synthetic clips of something'}
    (tmp_path / 'gt.json').write_text(json.dumps(content))
    rows = [{'label': 'Run', 'segment': [0, 5], 'score': score} for score in (1.125, 0.5)]
    (tmp_path / 'd.json').write_text(json.dumps({'results': {'c': rows}, 'external_data': {'known_labels': True}}))
    assert main([str(tmp_path / 'gt.json'), str(tmp_path / 'd.json'), '-o', str(tmp_path / 'r.html')]) == 0
    chromium.open(tmp_path / 'r.html')
    assert texts_of(chromium, '.mark') == ['synthetic clips', 'known labels']
    notes = texts_of(chromium, '.notes li')
    for words in ('scores exceed 1 here, up to 1.125: they rank', 'synthetic clips: ', 'known labels: '):
        assert any(words in note for note in notes), words
    chromium.run(f'showVideo({sorted(content["database"]).index("c")})')


def test_the_axis_of_scores_begins_at_0_and_a_line_marks_the_minimum_score(chromium, tmp_path):
    rows = [{'label': 'Run', 'segment': [0, 5], 'score': score} for score in (0.9, 0.8, 0.6)]
    (tmp_path / 'd.json').write_text(json.dumps({'results': {'a': rows}}))
    assert main([str(tmp_path / 'd.json'), '-o', str(tmp_path / 'r.html')]) == 0
    chromium.open(tmp_path / 'r.html')
    set_control(chromium, '#threshold', 0.6)

    def heights(selector, attribute):
        return chromium.run(f"""[...document.querySelectorAll('#timeline .block {selector}')].map(
            shape => Number(shape.getAttribute('{attribute}')))""")

    assert texts_of(chromium, '#timeline .block svg text')[0] == '0.0'
    zero = heights('.axis', 'y1')[0]
    shown = [zero - (y + 2.5) for y in heights('.hit', 'y')] + [zero - heights('.limit', 'y1')[0]]
    assert np.array(shown) / shown[0] == pytest.approx(np.array([0.6, 0.8, 0.9, 0.6]) / 0.6, rel=1e-3)


def test_the_gain_has_no_other_map_than_the_summary(browser):
    assert not re.search(r'\d\d\.\d\d', text_of(browser, '#gain figcaption'))


# ---- tIoU, SVG files, table, print ----------------------------------------------------------------------------------

def test_arrow_keys_change_the_tiou(browser):
    browser.run("document.querySelector('#tiou :checked').focus()")
    browser.press('ArrowRight')
    assert text_of(browser, '#tiou label:has(:focus)') == text_of(browser, '#tiou label:has(:checked)') == '0.7'
    assert text_of(browser, '.at-tiou') == '0.7'
    browser.press('ArrowDown')  # wraps around
    assert text_of(browser, '#tiou label:has(:focus)') == text_of(browser, '.at-tiou') == '0.3'
    browser.press('?')
    assert browser.run("document.querySelector('#help').open") is True


def test_panels_are_saved_as_svg_files_that_need_no_page(browser, tmp_path):
    browser.send('Page.setDownloadBehavior', behavior='allow', downloadPath=str(tmp_path))
    for box, shape, name in (('#timeline .block', 'rect', None), ('#viewer .title', 'rect', None),
                             ('#profile', 'rect', 'False_positive_profile'), ('#pr', 'path', None),
                             ('#gain', 'rect', 'mAP_gain_from_removing_an_error_type')):
        browser.run(f'document.querySelector({json.dumps(box + " .save")}).click()')
        begin = time.monotonic()
        while not (files := list(tmp_path.glob('*.svg'))) or list(tmp_path.glob('*.crdownload')):
            assert time.monotonic() - begin < 20, f'no file of {box}'
            browser.run('new Promise(done => setTimeout(done, 20))')
        text = files[0].read_text()
        assert name is None or files[0].stem == name
        files[0].unlink()
        source = '#timeline' if box == '#viewer .title' else box
        drawn = browser.run(f"[...document.querySelector('{source}').querySelectorAll('svg {shape}')]"
                            ".filter(element => element.checkVisibility()).length")
        saved = ElementTree.fromstring(text).findall(f'.//{{http://www.w3.org/2000/svg}}{shape}')
        assert len(saved) >= drawn > 0
        assert not re.search(r'class=|var\(|color-mix|color\(|style=', text)
    assert 'confusion' in text and browser.run('window.hacked') is None


def test_a_hint_below_the_table_of_classes_counts_what_is_outside_the_box(chromium, page):
    chromium.open(page, 390, 844)
    assert 'more columns' in text_of(chromium, '#classes .more')
    chromium.run("document.querySelector('#classes .scroll').scrollLeft = 9999")
    chromium.run('new Promise(done => setTimeout(done, 100))')
    assert text_of(chromium, '#classes .more') == ''
    chromium.run("document.querySelector('#classes .scroll').style.maxHeight = '80px'")
    chromium.run('drawTableHint()')
    assert re.fullmatch(r'↓ [2-4] more classes', text_of(chromium, '#classes .more'))
    chromium.open(page)
    assert text_of(chromium, '#classes .more') == ''


def test_print_contains_all_classes_in_their_colors(browser):
    browser.run("document.querySelector('#classes .scroll').style.height = 'auto'")
    browser.send('Emulation.setEmulatedMedia', media='print')
    try:
        box = browser.run("(() => { const {scrollHeight, clientHeight} = document.querySelector('#classes .scroll');"
                          'return [scrollHeight, clientHeight]; })()')
        assert box[0] == box[1]
        assert browser.run("getComputedStyle(document.querySelector('.heat')).printColorAdjust") == 'exact'
        listed = "[...document.querySelectorAll('.video')].filter(row => row.getBoundingClientRect().height > 5).length"
        assert browser.run(listed) == 7
        box = browser.run("(() => { const {scrollHeight, clientHeight} = document.querySelector('#list');"
                          'return [scrollHeight, clientHeight]; })()')
        assert box[0] <= box[1]
        assert browser.run("getComputedStyle(document.querySelector('#viewer')).display") != 'none'
    finally:
        browser.send('Emulation.setEmulatedMedia', media='')


# ---- without a ground truth -----------------------------------------------------------------------------------------

@pytest.fixture
def unscored(files, tmp_path) -> Path:
    path = tmp_path / 'unscored.html'
    (tmp_path / 'extraction.json').write_text(json.dumps({'videos': {VIDEOS[0]: {'duration': 321.5, 'rows': 3}}}))
    assert main([str(files / 'detections.json'), '--curves', str(files / 'curves.npz'), '--durations',
                 str(tmp_path / 'extraction.json'), '-o', str(path)]) == 0
    return path


def test_without_ground_truth_the_page_shows_detections_and_curves_and_no_score(chromium, unscored, results):
    chromium.open(unscored)
    assert listed_videos(chromium) == [*results]
    visible = chromium.run('document.body.innerText')
    assert 'mAP' not in visible and 'AP' not in visible and 'missed' not in visible and '321.5 s' not in visible
    chromium.run("document.querySelectorAll('.video')[1].click()")
    assert '321.5 s' in text_of(chromium, '#viewer .facts')
    assert count(chromium, '#timeline .curve') > 0 and count(chromium, '.instance') == 0
    set_control(chromium, '#threshold', -5)
    assert count(chromium, '.hit') == len(results[shown_video(chromium)])
    assert texts_of(chromium, '.tiles b')[1] == str(sum(map(len, results.values())))
    cells = texts_of(chromium, '.ap tbody tr > *')
    rows = {cells[i]: int(cells[i + 2]) for i in range(0, len(cells), 5)}
    assert rows == Counter(row['label'] for rows in results.values() for row in rows)
    for key in 'jk0+':
        chromium.press(key)
    chromium.run("document.querySelector('.ap tbody tr').click()")
    assert chromium.errors == []


def test_events_are_listed_and_drawn_in_a_lane_per_class(chromium, files, tmp_path):
    rows = [('Run', 61, 63.46, 0.9), ('Run', 62, 64, 0.8), (HOSTILE, 5, 10, 0.7), ('Run', 80, 90, 0.6)]
    (tmp_path / 'd.json').write_text(json.dumps({'results': {
        'a': [{'label': label, 'segment': [start, end], 'score': score} for label, start, end, score in rows],
        'b': []}}))
    assert main([str(tmp_path / 'd.json'), '-o', str(tmp_path / 'r.html')]) == 0
    chromium.open(tmp_path / 'r.html')
    expected = [f'0:05.0 – 0:10.0{HOSTILE}0.70', '1:01.0 – 1:03.5Run0.90']  # 0.6 is less than 0.7 * 0.9
    assert texts_of(chromium, '#events li') == expected
    assert texts_of(chromium, '.lanes text') == [HOSTILE, 'Run'] and count(chromium, '.lanes rect.event') == 2
    assert texts_of(chromium, '.tiles b')[:2] == ['2', '4'] and texts_of(chromium, '#list em')[1] == 'no event'
    bar = chromium.run("(({x, width}) => [x, width].map(v => v.baseVal.value))(document.querySelectorAll("
                       "'.lanes rect.event')[1])")
    assert bar == pytest.approx(chromium.run('[xOf(61), xOf(63.46) - xOf(61)]'), abs=0.02)

    (tmp_path / 'events.csv').write_text('video,label,start,end,score\na,Run,70,71,0.5\nother,Run,1,2,0.5\n')
    assert main([str(tmp_path / 'd.json'), '--events', str(tmp_path / 'events.csv'), '-o',
                 str(tmp_path / 'r.html')]) == 0
    chromium.open(tmp_path / 'r.html')
    assert texts_of(chromium, '#events li') == ['1:10.0 – 1:11.0Run0.50']
    chromium.run("document.querySelector('#events button').click()")  # marks the time, there is no video
    assert chromium.run('state.time') == 70 and count(chromium, '#events .now') == 1
    set_control(chromium, '#label', chromium.run(f'data.labels.indexOf({json.dumps(HOSTILE)})'))
    assert texts_of(chromium, '#events li') == ['No event: no detection reaches the minimum score.']
    assert chromium.errors == []


def test_the_scores_of_events_are_stated(files):
    gt, detections = read_ground_truth(files / 'gt.json'), read_detections(files / 'detections.json')
    events = detections._replace(**{name: getattr(gt, name) for name in ('videos', 'labels', 'video', 'label',
                                                                         'segments')}, scores=np.ones(len(gt.video)))
    page = build_report(gt, detections, TIOU, events=events)
    assert '36 events, 36 instances: precision 1.000, recall 1.000, F1 1.000 at tIoU 0.5' in page


def test_labels_without_times_are_shown(chromium, files, tmp_path):
    (tmp_path / 'gt.json').write_text(json.dumps({'database': {'c': {'annotations': [{'label': 'Run'}]}}}))
    text = build_report(read_ground_truth(tmp_path / 'gt.json'), read_detections(files / 'detections.json'))
    write_text(tmp_path / 'r.html', text)
    chromium.open(tmp_path / 'r.html')
    assert texts_of(chromium, '#timeline > .block > p > :not(.save)')[:2] == [
        'Run', 'video-level label without times']
    assert chromium.errors == []


def test_options_may_come_between_the_two_files(files, tmp_path, capsys):
    assert main([str(files / 'gt.json'), '--curves', str(files / 'curves.npz'), str(files / 'detections.json'),
                 '-o', str(tmp_path / 'r.html')]) == 0
    assert '"mean_ap":[0.' in (tmp_path / 'r.html').read_text()


@pytest.mark.parametrize('arguments, message', [
    (['--durations', 'detections.json'], 'contains no durations'),
    (['--videos', 'nowhere'], 'not a folder of videos'),
    (['--videos', '.'], 'contains no file of these videos'),
])
def test_wrong_durations_and_videos_are_one_line_and_status_2(files, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    assert main(['detections.json', '-o', 'r.html', *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith('error: ') and error.count('\n') == 1


# ---- the video player -----------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def playing(tmp_path_factory) -> Path:
    """A page with one H.264 video of 4 s, whose name needs escaping in a URL."""
    av = pytest.importorskip('av', reason='needs PyAV (requirements-video.txt)')
    folder = tmp_path_factory.mktemp('playing')
    (folder / 'my clips').mkdir()
    with av.open(str(folder / 'my clips' / 'v_a #1%.mp4'), 'w') as film:
        stream = film.add_stream('libx264', rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = 'yuv420p'
        for i in range(100):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 2 * i, np.uint8), format='rgb24')
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    rows = [{'label': 'Run', 'score': score, 'segment': segment} for score, segment in ((0.9, [1, 1.5]), (0.8, [2, 3]))]
    gt = {name: {'duration': 4, 'annotations': [{'label': 'Run', 'segment': [1, 2]}]} for name in ('a #1%', 'b')}
    (folder / 'gt.json').write_text(json.dumps({'database': gt}))
    (folder / 'detections.json').write_text(json.dumps({'results': {'a #1%': rows, 'b': rows}}))
    assert main([str(folder / 'gt.json'), str(folder / 'detections.json'), '--videos', str(folder / 'my clips'),
                 '-o', str(folder / 'report.html')]) == 0
    return folder / 'report.html'


def click(browser, selector, share=0.5):
    x, y = browser.run(f"""(() => {{
        const element = document.querySelector({json.dumps(selector)});
        element.scrollIntoView({{block: 'center'}});
        const box = element.getBoundingClientRect();
        return [box.x + {share} * box.width, box.y + box.height / 2]; }})()""")
    browser.mouse('mouseMoved', x, y)
    browser.mouse('mousePressed', x, y, button='left', clickCount=1)
    browser.mouse('mouseReleased', x, y, button='left', clickCount=1)


def wait_for(browser, condition):
    assert browser.run(f"""new Promise(done => {{
        const begin = Date.now();
        const look = () => {condition} ? done(true) : Date.now() - begin > 20000 ? done(false) : setTimeout(look, 20);
        look(); }})"""), condition


def heard_at(browser, index):
    return browser.run(f'heard[{index}][1]')


def test_the_video_plays_with_its_timeline(chromium, playing):
    chromium.open(playing)
    clip = "document.querySelector('#clip')"
    wait_for(chromium, f'{clip}.readyState >= 1')
    width, rest = chromium.run("['.player', '.happens'].map(box => document.querySelector(box).clientWidth)")
    assert width >= 380 and rest > 200  # a square video: as high as half of the window
    assert 'v_a%20%231%25.mp4' in chromium.run(f'{clip}.src') and chromium.run(f'{clip}.duration') == 4
    chromium.run("document.getElementById('videos').scrollIntoView()")
    assert chromium.run("document.querySelector('#playhead').hidden") is True

    click(chromium, '#timeline .block .axis', 0.75)  # a line of the axis from LEFT to the right end
    wait_for(chromium, f'Math.abs({clip}.currentTime - 3) < 0.05')
    assert chromium.run(f'{clip}.paused') is True
    left = chromium.run("parseFloat(document.querySelector('#playhead').style.left)")
    assert left == pytest.approx(chromium.run('LEFT + 0.75 * plotWidth'), abs=2)

    chromium.run(f"""(() => {{
        const clip = {clip}, time = Object.getOwnPropertyDescriptor(HTMLMediaElement.prototype, 'currentTime');
        let sought;  // a busy browser plays on before it calls a listener
        Object.defineProperty(clip, 'currentTime', {{
            get: () => time.get.call(clip), set: value => {{ sought = value; time.set.call(clip, value); }}}});
        window.heard = [];
        clip.addEventListener('play', () => heard.push(['play', sought, clip.currentTime]));
        clip.addEventListener('pause', () => heard.push(['pause', clip.currentTime])); }})()""")
    click(chromium, '.hit[data-row="0"]')  # the best: from 1 to 1.5 s
    wait_for(chromium, 'heard.length === 2')
    (first, begin, after_begin), (second, end) = chromium.run('heard')
    assert (first, second) == ('play', 'pause') and begin == pytest.approx(1, abs=0.05)
    assert after_begin == pytest.approx(1, abs=0.3)
    assert 1.5 <= end < 3.9  # it stops soon after the end
    assert chromium.run('state.time') == chromium.run(f'{clip}.currentTime')

    click(chromium, '#events button')  # the same, but plays on
    wait_for(chromium, f"heard.length === 3 && {clip}.currentTime > 1.8")
    assert heard_at(chromium, 2) == pytest.approx(1, abs=0.05) and chromium.run(f'{clip}.paused') is False
    assert count(chromium, '#events .now') == 0
    chromium.run(f'{clip}.pause()')
    click(chromium, '.lanes rect.event')
    wait_for(chromium, 'heard.length === 5')
    assert heard_at(chromium, 4) == pytest.approx(1, abs=0.05) and count(chromium, '#events .now') == 1
    chromium.run(f'{clip}.pause()')

    chromium.run('mark(1.04)')
    chromium.run('setView(0.9, 1.4)')  # the visible part follows while it plays
    chromium.press(' ')
    wait_for(chromium, 'state.from > 1')
    chromium.run(f'mark(0.1); {clip}.play()')
    chromium.press(' ')
    assert chromium.run(f'{clip}.paused') is True and chromium.run(f'{clip}.ended') is False

    chromium.press('j')  # has no file
    assert shown_video(chromium) == 'b'
    assert chromium.run("getComputedStyle(document.querySelector('.player')).display") == 'none'
    assert chromium.errors == []


def test_a_missing_video_is_reported_and_the_page_works(chromium, playing, tmp_path):
    alone = tmp_path / 'report.html'
    alone.write_text(playing.read_text())
    chromium.open(alone)
    wait_for(chromium, "!document.querySelector('.player .note').hidden")
    assert text_of(chromium, '.player .note').startswith('This browser cannot play my clips/v_a #1%.mp4. If the file')
    assert count(chromium, '.hit') > 0


def test_only_a_page_with_videos_may_load_them(page, playing):
    assert 'media-src' not in Elements(page.read_text()).policy
    assert "media-src 'self' file:;" in Elements(playing.read_text()).policy


# ---- sizes ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('scores', [
    [1e-8, 2e-8, 3e-8, 4e-8], [9e8, 5e8, 1e3, 0], [-9e8, 9e8, 0.5, 0.1], [0.5, 0.5 + 1e-16, 0.5, 0.5], [0.3] * 4,
    [0, 0, 0, 0], [-3e-6, -2e-6, -1e-6, 0]])
def test_scores_from_1e_9_to_1e9_are_drawn_in_their_order(chromium, tmp_path, scores):
    rows = [{'label': 'Run', 'score': score, 'segment': [i, i + 1.5]} for i, score in enumerate(scores)]
    (tmp_path / 'gt.json').write_text(json.dumps({'database': {'a': {
        'duration': 1e-320, 'annotations': [{'label': 'Run', 'segment': [1, 2]}]}}}))
    (tmp_path / 'detections.json').write_text(json.dumps({'results': {'a': rows}}))
    page = tmp_path / 'r.html'
    assert main([str(tmp_path / 'gt.json'), str(tmp_path / 'detections.json'), '-o', str(page)]) == 0
    chromium.open(page)
    chromium.run("document.querySelector('#threshold').value = -1e300")
    set_control(chromium, '#threshold', chromium.run("document.querySelector('#threshold').min"))
    assert chromium.errors == [] and count(chromium, '.hit') == 4
    heights = dict(chromium.run("[...document.querySelectorAll('.hit')].map(bar => [Number(bar.dataset.row),"
                                'bar.y.baseVal.value])'))
    by_score = [heights[row] for row in range(4)]  # rows on the page are sorted by falling score
    assert by_score == sorted(by_score) and all(0 <= y < 300 for y in by_score)
    for key in '+-':
        chromium.press(key)
    assert chromium.errors == []


def test_of_too_many_detections_the_best_of_each_class_and_video_are_kept(chromium, files, tmp_path, monkeypatch):
    gt, detections = read_ground_truth(files / 'gt.json'), read_detections(files / 'detections.json')
    monkeypatch.setattr(eval.report, 'MAX_DETECTIONS', 60)
    write_text(tmp_path / 'r.html', build_report(gt, detections, TIOU))
    chromium.open(tmp_path / 'r.html')
    kept = chromium.run('[...detections.score.keys()].map(row => [data.videos[detections.video[row]],'
                        'data.labels[detections.label[row]], detections.score[row]])')
    assert 60 <= len(kept) < len(detections.scores)
    of = {}
    for video, label, score in zip(detections.video, detections.label, detections.scores):
        of.setdefault((detections.videos[video], detections.labels[label]), []).append(score)
    held = {(video, label): max(score for v, c, score in kept if (v, c) == (video, label)) for video, label, _ in kept}
    assert held == {pair: max(scores) for pair, scores in of.items()}
    note = text_of(chromium, '.notes')
    assert f'the page contains {len(kept)} of {len(detections.scores)} detections: the top 9 of each video' in note
    # Precision and recall of a class are still those of all its detections.
    scores = evaluate(gt, detections, TIOU)
    for c, label in enumerate(scores.labels):
        for k in range(len(TIOU)):
            ap = chromium.run(f'envelopeOfClass(data.labels.indexOf({json.dumps(label)}), {k}).precision'
                              f'.reduce((a, b) => a + b, 0) / data.classes[{c}].instances')
            assert ap == pytest.approx(scores.ap[c, k])
    assert text_of(chromium, '#shown').startswith(f"{count(chromium, '.hit')} of 37 detections")


def test_a_long_list_of_videos_is_complete_and_the_shown_one_is_in_view(chromium, tmp_path):
    names = [f'v{i:04}' for i in range(5000)]
    results = {name: [{'label': 'Run', 'score': 0.5, 'segment': [0, 1]}] for name in names}
    (tmp_path / 'detections.json').write_text(json.dumps({'results': results}))
    assert main([str(tmp_path / 'detections.json'), '-o', str(tmp_path / 'r.html')]) == 0
    chromium.open(tmp_path / 'r.html')
    assert listed_videos(chromium) == names
    assert text_of(chromium, '.listed') == '5,000 of 5,000'

    def selected():
        return chromium.run("""(() => { const [row, list] = ['.video[aria-selected=true]', '#list'].map(selector =>
            document.querySelector(selector).getBoundingClientRect());
            return row.top >= list.top && row.bottom <= list.bottom + 1; })()""")

    chromium.run('showVideo(1199)')
    assert text_of(chromium, '.video[aria-selected=true] b') == 'v1199' and selected()
    chromium.press('k')
    assert shown_video(chromium) == text_of(chromium, '.video[aria-selected=true] b') == 'v1198' and selected()
    set_control(chromium, '#search', 'v000')
    assert listed_videos(chromium) == names[:10]
    assert chromium.errors == []


def test_a_panel_draws_a_limited_number_of_detections(chromium, tmp_path):
    rows = [{'label': 'Run', 'score': i / 3000, 'segment': [i, i + 1]} for i in range(3000)]
    gt = {'a': {'duration': 3000, 'annotations': [{'label': 'Run', 'segment': row['segment']} for row in rows]}}
    (tmp_path / 'gt.json').write_text(json.dumps({'database': gt}))
    (tmp_path / 'detections.json').write_text(json.dumps({'results': {'a': rows}}))
    assert main([str(tmp_path / 'gt.json'), str(tmp_path / 'detections.json'), '-o', str(tmp_path / 'r.html')]) == 0
    chromium.open(tmp_path / 'r.html')
    set_control(chromium, '#threshold', 0)
    assert count(chromium, '.hit') == 2000
    assert 'only the best 2,000 detections in view drawn' in text_of(chromium, '#timeline .block p')
    assert count(chromium, '.overview .instance') == 1  # one path
    assert text_of(chromium, '#shown').startswith('3000 of 3,000')


# ---- files that the command does not overwrite ----------------------------------------------------------------------

def test_a_file_that_is_not_a_report_is_not_overwritten(files, tmp_path, capsys):
    weights = tmp_path / 'best.pt'
    weights.write_bytes(b'PK\x03\x04 a checkpoint')
    command = [str(files / 'gt.json'), str(files / 'detections.json'), '-o', str(weights)]
    assert main(command) == 2
    assert 'another kind' in capsys.readouterr().err and weights.read_bytes() == b'PK\x03\x04 a checkpoint'
    assert main([*command, '--overwrite']) == 0
    assert main(command) == 0  # a report now


def test_an_input_named_like_a_temporary_file_is_kept(files, tmp_path):
    hidden = tmp_path / '.r.html.tmp'
    hidden.write_bytes((files / 'gt.json').read_bytes())
    assert main([str(hidden), str(files / 'detections.json'), '-o', str(tmp_path / 'r.html')]) == 0
    assert hidden.read_bytes() == (files / 'gt.json').read_bytes()
