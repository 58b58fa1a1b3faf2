"""What lies in a data folder: annotations, who belongs to a split, the time base. No feature is read here.

    features/{train,test}/...           feature files; for their layouts see features.py
    gt.json, or labels.csv              annotations, or only what happens in each video
    split_train.txt, split_test.txt     who belongs to a split; where absent, the subsets of gt.json say it
    extraction.json                     how long the videos are, where `python -m extraction` wrote them

`v_X` and `X` name the same video.
"""
import csv
import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eval.files import MAX_SECONDS, GroundTruth, in_subset, match_videos, read_ground_truth, subset_name
from features import FeatureFile, FeatureFolder, find_folder, find_loose_features, split_folders
from utils import InputError, first_few, number_of, read_json, shorten

SUBSETS = ('training', 'validation', 'testing')
SUFFIXES = ('.npy', '.mp4', '.m4v', '.mkv', '.avi', '.mov', '.webm', '.mpg', '.mpeg', '.wmv', '.flv', '.3gp', '.ts')
USUAL_FRAMES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)          # a snippet
USUAL_FPS = (10, 12.5, 15, 20, 24, 25, 30, 50, 60, 100, 200)


# ---- annotations ----------------------------------------------------------------------------------------------------

def no_annotations() -> GroundTruth:
    nothing = np.zeros(0, np.int64)
    return GroundTruth([], [], np.zeros(0), [], nothing, nothing, np.zeros((0, 2)))


def read_annotations(root: Path) -> GroundTruth:
    """What gt.json says, or else labels.csv; nothing where there is neither. Durations also from extraction.json."""
    truth = no_annotations()
    if (root / 'gt.json').exists():
        truth = read_ground_truth(root / 'gt.json')
    elif (root / 'labels.csv').exists():
        truth = read_labels(root / 'labels.csv')
    if (root / 'extraction.json').exists():
        truth = add_durations(truth, read_durations(root / 'extraction.json'))
    return truth


def missing_annotations(root: Path) -> InputError:
    """What to say to somebody who wants to train without annotations."""
    mend = 'write it, or labels.csv with the columns video,label'
    others = [path.name for path in sorted(root.glob('*.json')) if path.name not in ('extraction.json', 'gt.json')]
    if others:
        mend = f'{shorten(others[0])} is there: if it holds the annotations, name it gt.json; else {mend}'
    return InputError(f'{root / "gt.json"}: not found; {mend}')


def plain_name(name: str) -> str:
    """A video's name without the suffix of its file."""
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), '')
    return name[:len(name) - len(suffix)]


def read_labels(path: Path) -> GroundTruth:
    """Reads a labels.csv: a header `video,label`, then a label of a video a row, in any order, without any time.

    Raises InputError that names the line for anything else.
    """
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding='utf-8-sig'), newline=''), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f'{path}: not a readable CSV file ({shorten(error)}); write video,label, then a label of a '
                         f'video a line') from None
    header = [cell.strip() for cell in rows[0]] if rows else []
    if sorted(header) != ['label', 'video']:
        raise InputError(f'{path}: its first line must be the header video,label, found '
                         f'{shorten(",".join(header), 60) or "nothing"}')
    column = header.index('video')
    labels_of: dict[str, set[str]] = {}
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        cells = [cell.strip() for cell in row]
        if len(cells) != 2 or not all(cells):
            raise InputError(f'{path}: row {number} must hold a video and a label, found '
                             f'{shorten(",".join(row), 60)!r}; quote what has a comma in it')
        name, label = plain_name(cells[column]), cells[1 - column]
        other = 'v_' + name if 'v_' + name in labels_of else name.removeprefix('v_')
        labels_of.setdefault(other if other in labels_of else name, set()).add(label)
    if not labels_of:
        raise InputError(f'{path}: labels no video; write a label of a video a line')
    videos, labels = list(labels_of), sorted(set().union(*labels_of.values()))
    pairs = np.array([(v, labels.index(label)) for v, name in enumerate(videos) for label in sorted(labels_of[name])])
    return no_annotations()._replace(
        videos=videos, subsets=[''] * len(videos), durations=np.full(len(videos), np.nan), labels=labels,
        tag_video=pairs[:, 0], tag_label=pairs[:, 1])


def read_durations(path: Path) -> dict[str, float]:
    """How many seconds each video lasts, as extraction.json says. Raises InputError where it is not one."""
    content = read_json(path)
    videos = content.get('videos') if isinstance(content, dict) else None
    if not isinstance(videos, dict) or not all(isinstance(entry, dict) for entry in videos.values()):
        raise InputError(f'{path}: not of the form {{"videos": {{NAME: {{"duration": ...}}}}}}; extract again or '
                         f'remove it')
    found = {name: entry.get('duration') for name, entry in videos.items()}
    return {name: float(value) for name, value in found.items()
            if type(value) in (int, float) and 0 < value <= MAX_SECONDS}


def add_durations(truth: GroundTruth, seconds: dict[str, float]) -> GroundTruth:
    """Fill in durations that are not known; videos that are not known at all come at the end."""
    place = match_videos(list(seconds), truth.videos)
    new = [name for name, at in zip(seconds, place.tolist()) if at < 0]
    durations = np.append(truth.durations, [seconds[name] for name in new])
    for at, value in zip(place.tolist(), seconds.values()):
        if at >= 0 and np.isnan(durations[at]):
            durations[at] = value
    return truth._replace(videos=truth.videos + new, subsets=truth.subsets + [''] * len(new), durations=durations)


# ---- who belongs to a split -----------------------------------------------------------------------------------------

def read_split_file(path: Path) -> list[str]:
    """Video names, one a line, in the file's order. Raises InputError where it is empty or names a video twice."""
    try:
        names = [line.strip() for line in path.read_text(encoding='utf-8-sig').splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: not a readable text file ({shorten(error)}); write one video name a line') from None
    names = [name.removesuffix('.npy') for name in names if name]    # some lists name the files
    if not names:
        raise InputError(f'{path}: names no video; write one a line')
    refuse_twice(names, path)
    return names


def refuse_twice(names: list[str], path: Path) -> None:
    counts = Counter(names)
    for name in counts:
        if counts[name] > 1 or 'v_' + name in counts:
            raise InputError(f'{path}: names {shorten(name)} more than once, with or without v_; keep one of them')


class Members(NamedTuple):
    """Who belongs to a split, and what says so."""
    source: str
    names: list[str]
    must_be_there: bool    # a list that somebody wrote for these features; subsets and labels may name more


@dataclass
class Split:
    """The V videos of a split, before any feature is read, and all that is wrong with it.

    Whoever needs the split calls `require` first; a check prints the problems instead.
    """
    name: str                       # 'train' or 'test'
    members: Members
    truth: GroundTruth
    folder: FeatureFolder
    names: list[str]                # V, spelled as in the annotations where these know them
    files: list[FeatureFile]        # V
    known: np.ndarray               # (V,) index into truth.videos, -1 where it does not know them
    class_names: list[str]          # C
    labels: np.ndarray              # (V, C) multi-hot, float32
    without_features: list[str]
    without_annotation: list[str]   # left out of training, kept in a test
    problems: list[str] = field(default_factory=list)    # each would stop a run

    def require(self) -> 'Split':
        """Raises InputError with the first problem, if there is one."""
        if self.problems:
            raise InputError(self.problems[0])
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """Of all features: (sum L, M D)."""
        return sum(file.length for file in self.files), self.files[0].width * len(self.folder.modalities)

    @property
    def dtype(self) -> np.dtype:
        """What all features fit in: float16 where every file is float16, else float32."""
        return np.dtype(np.float16 if all(file.dtype.itemsize == 2 for file in self.files) else np.float32)

    @property
    def uneven(self) -> list[str]:
        return [name for name, file in zip(self.names, self.files) if file.uneven]

    @property
    def durations(self) -> np.ndarray:
        """(V,) seconds, NaN where nobody says how long a video is."""
        return np.append(self.truth.durations, np.nan)[self.known]

    def summary(self, feature_fps: float, snippet_frames: float) -> 'Summary':
        """Count what is in the split. Counts of annotations are over everybody listed, with features or not."""
        truth = self.truth
        listed = match_videos(self.members.names, truth.videos)
        video, segments = (column[np.isin(truth.video, listed)] for column in (truth.video, truth.segments))
        label = truth.label[np.isin(truth.video, listed)]
        tagged = truth.tag_video[np.isin(truth.tag_video, listed)]
        distinct = np.unique(np.column_stack([video, label, segments]), axis=0)
        end: dict[int, float] = {}
        for v, stop in zip(video.tolist(), segments[:, 1].tolist()):
            end[v] = max(end.get(v, 0), stop)
        annotated = {*end, *tagged.tolist()}
        subsets = {subset_name(truth.subsets[v]) for v in annotated} - {''}
        unlisted = [truth.videos[v] for v in np.unique(truth.video_labels()[0]).tolist()
                    if v not in annotated and subset_name(truth.subsets[v]) in subsets]
        # The last, incomplete snippet of a video has no features: that much later is as it should be.
        late = [name for name, v, file in zip(self.names, self.known.tolist(), self.files)
                if end.get(v, 0) > (file.length + 1) * snippet_frames / feature_fps]
        return Summary(self.members.source, len(self.members.names), len(annotated), len(video),
                       int((segments[:, 1] <= segments[:, 0]).sum()), len(video) - len(distinct),
                       self.without_features, self.without_annotation, unlisted, self.uneven, late,
                       len(tagged))

    def time_base(self, feature_fps: float, snippet_frames: float) -> 'TimeBase | None':
        """Compare the length of the features with the durations that are known; None where none is."""
        if not self.files:
            return None
        durations = self.durations
        lasts = np.array([file.length for file in self.files]) * snippet_frames / feature_fps
        ratios = (durations / lasts)[np.isfinite(durations)]
        return TimeBase(len(ratios), float(np.median(ratios)), feature_fps, snippet_frames) if len(ratios) else None


class Summary(NamedTuple):
    """What is in a split and what is untidy about it."""
    source: str
    listed: int
    annotated: int
    instances: int
    empty_instances: int            # of no or negative length
    duplicate_instances: int        # exact repetitions
    without_features: list[str]
    without_annotation: list[str]
    unlisted: list[str]             # annotated, in a subset of the listed ones
    uneven: list[str]               # RGB and flow differ by a row or two
    late: list[str]                 # annotations end after the features
    tags: int                       # labels without a time

    def lines(self) -> list[str]:
        """For a person to read; what is in order is not mentioned."""
        untidy = [f'{count} {what}' for count, what in ((self.empty_instances, 'of no length'),
                                                        (self.duplicate_instances, 'exact duplicates')) if count]
        kept = f' ({", ".join(untidy)}; all are kept)' if untidy else ''
        tags = f', {number_of(self.tags, "label")} without a time' if self.tags else ''
        lines = [f'{number_of(self.listed, "video")} by {self.source}, {self.annotated} of them annotated, '
                 f'{number_of(self.instances, "instance")}{kept}{tags}']
        for names, what in ((self.without_features, 'without features'),
                            (self.without_annotation, 'without annotation'),
                            (self.unlisted, 'annotated in the same subset but not listed'),
                            (self.uneven, 'with a row or two more of one modality, cut to the shorter'),
                            (self.late, 'with annotations that end after the features')):
            if names:
                lines.append(f'{number_of(len(names), "video")} {what}: {first_few(names)}')
        return lines


class TimeBase(NamedTuple):
    """How long the videos are, measured in what their features last."""
    num_videos: int
    ratio: float             # median of duration / (L x snippet_frames / feature_fps)
    feature_fps: float
    snippet_frames: float

    @property
    def is_off(self) -> bool:
        return abs(self.ratio - 1) > 0.1

    def advice(self) -> str:
        """What is wrong and the flag that mends it: the nearest usual value, if one is near."""
        options: list[tuple[str, float, float]] = [('snippet_frames', n, n / self.snippet_frames) for n in USUAL_FRAMES]
        options += [('feature_fps', fps, self.feature_fps / fps) for fps in USUAL_FPS]
        flag, value, factor = min(options, key=lambda option: abs(np.log(option[2] / self.ratio)))
        if abs(factor / self.ratio - 1) > 0.05:
            flag, value = 'snippet_frames', self.snippet_frames * self.ratio
        return (f'TIME BASE: by gt.json the videos last {self.ratio:.3g} times as long as their features at '
                f'--feature_fps {self.feature_fps:g} --snippet_frames {self.snippet_frames:g} (median of '
                f'{self.num_videos}), so every detection would lie in the wrong place; a row seems to last '
                f'{self.ratio * self.snippet_frames / self.feature_fps:.3g} s: try --{flag} {value:.4g}')


@contextmanager
def noted(problems: list[str]) -> Iterator[None]:
    """Note an InputError in `problems` and go on."""
    try:
        yield
    except InputError as error:
        problems.append(str(error))


def annotated_subsets(truth: GroundTruth) -> list[str]:
    """Of training, validation and testing, in this order, those that hold an annotated video."""
    annotated = {subset_name(truth.subsets[v]) for v in np.unique(truth.video_labels()[0]).tolist()}
    return [name for name in SUBSETS if name in annotated]


def has_test_videos(root: Path, truth: GroundTruth) -> bool:
    """Whether anything names test videos: a list, a folder of theirs, or a second subset of the annotations."""
    return ((root / 'split_test.txt').is_file() or len(annotated_subsets(truth)) > 1 or
            any(folder.is_dir() for folder in split_folders(root, 'test')))


def find_members(root: Path, split: str, truth: GroundTruth) -> Members | None:
    """Who belongs to a split: whom its list file names, else a subset of the annotations, else who has labels.

    Of the annotated subsets (training, validation, testing) the first is trained on and the last is tested on. Where
    there are fewer than two, whoever has features in the test folder is tested (None). Raises InputError where nothing
    says who trains.
    """
    path = root / f'split_{split}.txt'
    if path.is_file():
        return Members(path.name, read_split_file(path), True)
    subsets = annotated_subsets(truth)
    if split == 'test' and len(subsets) < 2:
        return None
    if subsets:
        chosen = subsets[0 if split == 'train' else -1]
        names = [truth.videos[v] for v in np.flatnonzero(in_subset(truth, chosen))]
        return Members(f'subset {chosen}', names, False)
    tagged = np.unique(truth.video_labels()[0]).tolist()
    if (root / 'gt.json').exists() or not tagged:
        raise InputError(f'{path}: not found, and gt.json annotates no training subset to go by; write the list')
    return Members('labels.csv', [truth.videos[v] for v in tagged], False)


def without_test_videos(members: Members, root: Path, folder: FeatureFolder, layout: str) -> Members:
    """Who trains, of those that labels.csv names: not those whose features lie in the test folder alone."""
    try:
        tested = find_folder(root, 'test', folder.modalities, layout, None)
    except InputError:
        return members
    here, there = folder.locate(members.names), tested.locate(members.names)
    return members._replace(names=[name for name, own, other in zip(members.names, here, there) if own or not other])


def find_members_and_folder(root: Path, split: str, truth: GroundTruth, modalities: tuple[str, ...], layout: str,
                            loose: bool, problems: list[str]) -> tuple[Members, FeatureFolder]:
    """Who belongs to a split and where their features lie; what cannot be found is noted, and is nobody or nowhere."""
    members: Members | None = Members(f'split_{split}.txt', [], True)
    folder = FeatureFolder(root, 'none', False, modalities, [])
    is_loose = loose and not has_test_videos(root, truth)
    with noted(problems):
        members = None if is_loose else find_members(root, split, truth)
    with noted(problems):
        folder = (find_loose_features(root, modalities, layout) if is_loose else
                  find_folder(root, split, modalities, layout, members.names if members else None))
        if members is None:
            refuse_twice(folder.names, folder.streams[0].folder)
    if members is None:
        source = f'what lies in {folder.path}' if is_loose else 'what lies in the test folder'
        return Members(source, folder.names, False), folder
    if members.source == 'labels.csv' and split == 'train':
        members = without_test_videos(members, root, folder, layout)
    return members, folder


def find_split(root: Path, split: str, truth: GroundTruth, class_names: list[str], modalities: tuple[str, ...],
               layout: str = 'auto', loose: bool = False) -> Split:
    """Find the videos of a split, their files and their labels; headers are read, features are not.

    A video that a split file names must have features; one that only annotations name may lack them. Training leaves
    out videos without annotation, a test localizes them. With `loose` features need not lie in the tree of a split:
    all that lie in `root`, or `root` itself, are taken where there is no test folder.
    """
    problems: list[str] = []
    members, folder = find_members_and_folder(root, split, truth, modalities, layout, loose, problems)
    listed = members.names
    known = match_videos(listed, truth.videos)
    multi_hot = label_matrix(known, truth, class_names)
    paths = folder.locate(listed) if folder.streams else [()] * len(listed)
    missing = [name for name, files in zip(listed, paths) if not files]
    without = [name for name, row in zip(listed, multi_hot) if not row.any()]
    with noted(problems):
        check_members(root, split, members, folder, missing, without if truth.labels else [])

    wanted = [i for i in range(len(listed)) if paths[i] and (split == 'test' or multi_hot[i].any())]
    files = inspect_all(folder, {i: paths[i] for i in wanted}, split, problems)
    keep = list(files)
    if not keep and not problems and truth.labels:
        problems.append(f'{root}: no {split} video has both features and annotations')
    names = [truth.videos[known[i]] if known[i] >= 0 else listed[i] for i in keep]
    return Split(split, members, truth, folder, names, list(files.values()), known[keep], class_names,
                 multi_hot[keep], missing, without, problems)


def check_members(root: Path, split: str, members: Members, folder: FeatureFolder, missing: list[str],
                  without: list[str]) -> None:
    """Raises InputError where videos that must be there are not, or where no training video is annotated."""
    listed = len(members.names)
    if folder.streams and missing and (members.must_be_there or len(missing) == listed):
        raise InputError(f'{folder.path}: no features for {len(missing)} of the {listed} videos by {members.source}: '
                         f'{first_few(missing)}; add the files or correct {members.source} (the folder holds '
                         f'{first_few(folder.names, 1)})')
    if split == 'train' and listed and len(without) == listed:
        raise InputError(f'{root / "gt.json"}: annotates none of the {listed} training videos by {members.source}; '
                         f'check the names: {first_few(without)}')


def inspect_all(folder: FeatureFolder, paths: dict[int, tuple[Path, ...]], split: str, problems: list[str]
                ) -> dict[int, FeatureFile]:
    """The feature files under the numbers of their videos; of those that cannot be used the problem is noted."""
    from tqdm import tqdm    # it takes a fifth of the time in which a wrong command is answered
    files: dict[int, FeatureFile] = {}
    for i, own in tqdm(paths.items(), desc=f'looking at {split} features', unit='video', leave=False, delay=1):
        with noted(problems):
            file = folder.inspect(own)
            first = next(iter(files.values()), file)
            if file.width != first.width:
                raise InputError(f'{file.paths[0]}: features are {file.width} wide a modality, '
                                 f'but {first.width} in {first.paths[0]}')
            files[i] = file
    return files


def label_matrix(known: np.ndarray, truth: GroundTruth, class_names: list[str]) -> np.ndarray:
    """(V, C) multi-hot float32 of the classes annotated in each video; `known` as in Split.

    A label that is none of the classes is left out: weights of other classes cannot find it.
    """
    matrix = np.zeros((len(known), len(class_names)), np.float32)
    position = {video: i for i, video in enumerate(known.tolist()) if video >= 0}
    column = {name: i for i, name in enumerate(class_names)}
    for video, label in zip(*(values.tolist() for values in truth.video_labels())):
        if video in position and truth.labels[label] in column:
            matrix[position[video], column[truth.labels[label]]] = 1
    return matrix
