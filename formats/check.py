"""Check a data folder before a training: `python main.py --data_path DIR --check`."""
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from formats.annotations import NEGATIVE, GroundTruth, empty_ground_truth, require_annotations, suspicious_times
from formats.columns import plain_form
from formats.data_folder import Split, collect_errors, find_split, has_test_videos
from utils import InputError, plural, preview, print_section, progress, quote, truncate, warn

MAX_LINES = 50  # problems that are printed
MAX_CLASSES = 50  # that are listed; of more only those with the fewest and the most videos, NUM_ENDS each
NUM_ENDS = 10
SHORT = 20  # snippets, 13 seconds of I3D features
WIDTH = 11  # of the titles


class Findings(NamedTuple):
    """What is wrong with a data folder."""

    problems: list[str]  # a training would stop
    warnings: list[str]  # it would not, but may give wrong results


def describe_features(split: Split) -> list[str]:
    """Return where the features of a split are, and their shapes."""
    lengths = np.array([file.length for file in split.files])
    dtypes = Counter(str(file.dtype) for file in split.files)
    widths = sorted({file.width for file in split.files})
    size = np.prod(split.shape) * split.dtype.itemsize / 1e9
    return [f'{split.folder.path} ({split.folder.layout} layout): {plural(len(split.files), "video")}, feature width '
            f'{" or ".join(map(str, widths))} per modality ({", ".join(split.folder.modalities)}), '
            f'{", ".join(dtypes)}, {size:.2f} GB in memory',
            f'{lengths.sum()} snippets; a video has {lengths.min()} to {lengths.max()}, median {np.median(lengths):g}, '
            f'mean {lengths.mean():.1f}', *filter(None, [split.folder.layout_warning()])]


def read_all(split: Split, problems: list[str]) -> list[str]:
    """Read every feature, one video at a time; collect NaN and infinity, return the range."""
    ranges, empty = [], []
    videos = progress(split.names, desc=f'reading {split.name} features', unit='video')
    for video, file in zip(videos, split.files):
        rows = np.empty((file.length, file.width * len(split.folder.modalities)), np.float32)
        with collect_errors(problems):
            file.read(slice(None), rows)
            ranges.append((rows.min(), rows.max()))
            if not rows.any():
                empty.append(video)
    lines = [f'{plural(len(empty), "video")} with nothing but zeros: {preview(empty)}'] if empty else []
    if ranges:
        lines.append(f'features from {min(low for low, _ in ranges):.4g} to {max(high for _, high in ranges):.4g}')
    return lines


def check_annotations(root: Path, findings: Findings) -> GroundTruth:
    """Read and describe the annotations; return empty ones where they cannot be read."""
    gt = empty_ground_truth()
    with collect_errors(findings.problems):
        gt = require_annotations(root)
        subsets = ', '.join(f'{n} {name or "without subset"}' for name, n in Counter(gt.subsets).items())
        tags = f', {plural(len(gt.tag_video), "label")} without a time' if len(gt.tag_video) else ''
        print_section('gt.json' if (root / 'gt.json').exists() else 'labels.csv',
                      [f'{len(gt.labels)} classes, {len(gt.videos)} videos ({subsets}), '
                       f'{len(gt.video)} instances{tags}'], WIDTH)
        findings.warnings.extend(gt.warnings)
        findings.warnings.extend(f'{root / "gt.json"}: {line}' for line in
                                 suspicious_times('instances', gt.segments, gt.durations[gt.video]))
    return gt


def check_split(split: Split, feature_fps: float | str, snippet_frames: float, is_localized: bool,
                findings: Findings) -> None:
    """Describe a split and collect what is wrong with it."""
    findings.problems.extend(split.problems)
    lines = split.summary().lines()
    if unlisted := split.unlisted_files:
        lines.append(f'{plural(len(unlisted), "video")} with features, but neither annotated nor listed: '
                     f'{preview(unlisted)}')
    if split.files:
        time_base = split.time_base(feature_fps, snippet_frames)
        lines += describe_features(split) + time_base.lines() + read_all(split, findings.problems)
        findings.warnings.extend(f'{split.name}: {line}' for line in time_base.warnings())
        if is_localized:
            with collect_errors(findings.problems):
                split.frame_rates(feature_fps, snippet_frames)
    print_section(split.name, lines, WIDTH)


def check_train_test(root: Path, train: Split, test: Split, findings: Findings) -> None:
    """Collect mismatches between training and test videos."""
    if train.files[0].width != test.files[0].width:
        findings.problems.append(f'{root}: training features have width {train.files[0].width} per modality, '
                                 f'test features {test.files[0].width}')
    if both := sorted(set(train.names) & set(test.names)):
        findings.warnings.append(f'in both training and test: {plural(len(both), "video")}: {preview(both)}')


def check_labels(root: Path, train: Split, test: Split) -> None:
    """Raise InputError where the labels cannot be learned or features do not match; warn where they are few."""
    findings = Findings([], list(train.gt.warnings))
    check_classes(root, train, findings)
    if train is not test:
        check_train_test(root, train, test, findings)
    if findings.problems:
        raise InputError(findings.problems[0])
    for warning in findings.warnings:
        warn(warning)


def check_classes(root: Path, train: Split, findings: Findings) -> None:
    """Collect what cannot be learned: one class without negative videos, names with line breaks, few videos."""
    if len(train.class_names) == 1:
        fix = ('gt.json, with the annotation {"label": ""}' if (root / 'gt.json').exists() else
               'labels.csv, with an empty label (video,)')
        message = (f'{root}: a single class: its probability is always 1 and nothing is learned; add videos without it '
                   f'to {fix}')
        (findings.warnings if (root / 'gt.json').exists() else findings.problems).append(message)
    if broken := [name for name in train.class_names if '\n' in name or '\r' in name]:
        findings.problems.append(f'{root}: a class name contains a line break: {quote(broken[0])}; rename it, because '
                                 f'labels.txt has one class per line')
    if 'ambiguous' in map(plain_form, train.class_names):
        findings.warnings.append(f'{root}: "Ambiguous" is trained as a class; in THUMOS14 it marks segments to leave '
                                 f'out: remove them from gt.json')
    counts = train.labels.sum(axis=0)
    num_classes = sum(name != NEGATIVE for name in train.class_names)
    few = [name for name, count in zip(train.class_names, counts) if 0 < count < 3 and name != NEGATIVE]
    if few and not (root / 'gt.json').exists():
        findings.warnings.append(f'{root}: {len(few)} of {num_classes} classes with fewer than three training videos, '
                                 f'too few to learn them: {preview(few)}')
    lengths = [file.length for file in train.files]
    if lengths and np.median(lengths) < SHORT and not (root / 'gt.json').exists():
        findings.warnings.append(f'{root}: half of the videos have fewer than {SHORT} snippets, too few to find times '
                                 f'in: use longer videos, or features in smaller steps (--stride 4 of the extraction)')


def list_classes(gt: GroundTruth, splits: dict[str, Split]) -> list[str]:
    """Return a table of the classes with their numbers of videos and instances, two per line."""
    columns = {f'{name} videos': split.labels.sum(axis=0).astype(int) for name, split in splits.items()}
    first = next(iter(columns))
    if len(gt.label):
        columns['instances'] = np.bincount(gt.label, minlength=len(gt.labels))
    order, title = list(range(len(gt.labels))), f'numbers of {", ".join(columns)}'
    if len(order) > MAX_CLASSES:
        order.sort(key=lambda i: columns[first][i])
        order = order[:NUM_ENDS] + order[-NUM_ENDS:]
        title += f', of the {NUM_ENDS} classes with the fewest and the {NUM_ENDS} with the most {first}'
    cells = [f'{truncate(gt.labels[i] or "(none of them)", 24):<24}' +
             ''.join(f'{column[i]:>7}' for column in columns.values()) for i in order]
    rows = -(-len(cells) // 2)
    return [f'{title}:', *('    '.join(cells[row::rows]) for row in range(rows))]


def check_counts(gt: GroundTruth, splits: dict[str, Split], expected: tuple[int, int, int] | None,
                 findings: Findings) -> None:
    """Collect classes without training videos, and numbers that differ from those expected."""
    counts = [len(gt.labels), *(len(splits[name].names) if name in splits else 0 for name in ('train', 'test'))]
    if 'train' in splits:
        videos_of_class = splits['train'].labels.sum(axis=0)
        if unseen := [label for label, count in zip(gt.labels, videos_of_class) if not count]:
            findings.warnings.append(f'{len(unseen)} of {len(gt.labels)} classes without training video: '
                                     f'{preview(unseen)}')
    if expected and counts != list(expected):
        findings.warnings.append('the data set of --dataset has {} classes, {} training and {} test videos, this '
                                 'folder {}, {} and {}'.format(*expected, *counts))


def check_data_folder(root: Path, modalities: tuple[str, ...], layout: str, feature_fps: float | str,
                      snippet_frames: float, expected: tuple[int, int, int] | None = None) -> None:
    """Print what a data folder contains and everything that is wrong with it.

    expected: numbers of classes, training and test videos. Raises InputError where a training would stop.
    """
    findings = Findings([], [])
    gt = check_annotations(root, findings)
    splits: dict[str, Split] = {}
    localized = 'test' if has_test_videos(root, gt) else 'train'
    for name in ('train', 'test'):
        if not gt.labels and not (root / f'split_{name}.txt').is_file():
            continue  # what is wrong with the annotations is already reported
        if name == 'test' and localized == 'train':
            print_section(name, ['no test videos: the training videos will be localized, without scores'], WIDTH)
            continue
        split = find_split(root, name, gt, gt.labels, modalities, layout)
        check_split(split, feature_fps, snippet_frames, name == localized, findings)
        if split.files:
            splits[name] = split
    if splits:
        print_section('classes', list_classes(gt, splits), WIDTH)
    if len(splits) == 2:
        check_train_test(root, splits['train'], splits['test'], findings)
    if 'train' in splits:
        check_classes(root, splits['train'], findings)
    check_counts(gt, splits, expected, findings)
    print_findings(root, findings)


def print_findings(root: Path, findings: Findings) -> None:
    """Print the findings; raises InputError where a training would stop."""
    problems, warnings = findings
    print_section('', [f'warning: {warning}' for warning in warnings], WIDTH)
    print_section('', [f'problem: {problem}' for problem in problems[:MAX_LINES]], WIDTH)
    if len(problems) > MAX_LINES:
        print_section('', [f'and {plural(len(problems) - MAX_LINES, "problem")} more'], WIDTH)
    if problems:
        raise InputError(f'{root}: {plural(len(problems), "problem")}: training would fail')
    if warnings:
        print(f'ready to train, but see {plural(len(warnings), "warning")} above')
    else:
        print('fine: ready to train')
