"""A data folder: the videos of a split, their feature files and labels."""
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from formats.annotations import (GroundTruth, TimeBase, annotated_subsets, in_subset, match_videos, read_split_file, check_unique, subset_name)
from formats.features import FeatureFile, FeatureFolder, find_folder, find_flat_features, split_folders
from utils import InputError, preview, plural



class SplitList(NamedTuple):
    """Who belongs to a split, and what says so."""
    source: str
    names: list[str]
    required: bool    # a list that somebody wrote for these features; subsets and labels may name more



@dataclass
class Split:
    """The V videos of a split, before any feature is read, and all that is wrong with it.

    Whoever needs the split calls `require` first; a check prints the problems instead.
    """
    name: str                       # 'train' or 'test'
    members: SplitList
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
        tags = f', {plural(self.tags, "label")} without a time' if self.tags else ''
        lines = [f'{plural(self.listed, "video")} by {self.source}, {self.annotated} of them annotated, '
                 f'{plural(self.instances, "instance")}{kept}{tags}']
        for names, what in ((self.without_features, 'without features'),
                            (self.without_annotation, 'without annotation'),
                            (self.unlisted, 'annotated in the same subset but not listed'),
                            (self.uneven, 'with a row or two more of one modality, cut to the shorter'),
                            (self.late, 'with annotations that end after the features')):
            if names:
                lines.append(f'{plural(len(names), "video")} {what}: {preview(names)}')
        return lines



@contextmanager
def collect_errors(problems: list[str]) -> Iterator[None]:
    """Note an InputError in `problems` and go on."""
    try:
        yield
    except InputError as error:
        problems.append(str(error))



def has_test_videos(root: Path, truth: GroundTruth) -> bool:
    """Whether anything names test videos: a list, a folder of theirs, or a second subset of the annotations."""
    return ((root / 'split_test.txt').is_file() or len(annotated_subsets(truth)) > 1 or
            any(folder.is_dir() for folder in split_folders(root, 'test')))



def resolve_split_list(root: Path, split: str, truth: GroundTruth) -> SplitList | None:
    """Who belongs to a split: whom its list file names, else a subset of the annotations, else who has labels.

    Of the annotated subsets (training, validation, testing) the first is trained on and the last is tested on. Where
    there are fewer than two, whoever has features in the test folder is tested (None). Raises InputError where nothing
    says who trains.
    """
    path = root / f'split_{split}.txt'
    if path.is_file():
        return SplitList(path.name, read_split_file(path), True)
    subsets = annotated_subsets(truth)
    if split == 'test' and len(subsets) < 2:
        return None
    if subsets:
        chosen = subsets[0 if split == 'train' else -1]
        names = [truth.videos[v] for v in np.flatnonzero(in_subset(truth, chosen))]
        return SplitList(f'subset {chosen}', names, False)
    tagged = np.unique(truth.video_labels()[0]).tolist()
    if (root / 'gt.json').exists() or not tagged:
        raise InputError(f'{path}: not found, and gt.json annotates no training subset to go by; write the list')
    return SplitList('labels.csv', [truth.videos[v] for v in tagged], False)



def exclude_test_videos(members: SplitList, root: Path, folder: FeatureFolder, layout: str) -> SplitList:
    """Who trains, of those that labels.csv names: not those whose features lie in the test folder alone."""
    try:
        tested = find_folder(root, 'test', folder.modalities, layout, None)
    except InputError:
        return members
    here, there = folder.locate(members.names), tested.locate(members.names)
    return members._replace(names=[name for name, own, other in zip(members.names, here, there) if own or not other])



def resolve_split(root: Path, split: str, truth: GroundTruth, modalities: tuple[str, ...], layout: str,
                            flat: bool, problems: list[str]) -> tuple[SplitList, FeatureFolder]:
    """Who belongs to a split and where their features lie; what cannot be found is collect_errors, and is nobody or nowhere."""
    members: SplitList | None = SplitList(f'split_{split}.txt', [], True)
    folder = FeatureFolder(root, 'none', False, modalities, [])
    is_loose = flat and not has_test_videos(root, truth)
    with collect_errors(problems):
        members = None if is_loose else resolve_split_list(root, split, truth)
    with collect_errors(problems):
        folder = (find_flat_features(root, modalities, layout) if is_loose else
                  find_folder(root, split, modalities, layout, members.names if members else None))
        if members is None:
            check_unique(folder.names, folder.streams[0].folder)
    if members is None:
        source = f'what lies in {folder.path}' if is_loose else 'what lies in the test folder'
        return SplitList(source, folder.names, False), folder
    if members.source == 'labels.csv' and split == 'train':
        members = exclude_test_videos(members, root, folder, layout)
    return members, folder



def find_split(root: Path, split: str, truth: GroundTruth, class_names: list[str], modalities: tuple[str, ...],
               layout: str = 'auto', flat: bool = False) -> Split:
    """Find the videos of a split, their files and their labels; headers are read, features are not.

    A video that a split file names must have features; one that only annotations name may lack them. Trainer leaves
    out videos without annotation, a test localizes them. With `flat` features need not lie in the tree of a split:
    all that lie in `root`, or `root` itself, are taken where there is no test folder.
    """
    problems: list[str] = []
    members, folder = resolve_split(root, split, truth, modalities, layout, flat, problems)
    listed = members.names
    known = match_videos(listed, truth.videos)
    multi_hot = multi_hot_labels(known, truth, class_names)
    paths = folder.locate(listed) if folder.streams else [()] * len(listed)
    missing = [name for name, files in zip(listed, paths) if not files]
    without = [name for name, row in zip(listed, multi_hot) if not row.any()]
    with collect_errors(problems):
        check_members(root, split, members, folder, missing, without if truth.labels else [])

    wanted = [i for i in range(len(listed)) if paths[i] and (split == 'test' or multi_hot[i].any())]
    files = inspect_features(folder, {i: paths[i] for i in wanted}, split, problems)
    keep = list(files)
    if not keep and not problems and truth.labels:
        problems.append(f'{root}: no {split} video has both features and annotations')
    names = [truth.videos[known[i]] if known[i] >= 0 else listed[i] for i in keep]
    return Split(split, members, truth, folder, names, list(files.values()), known[keep], class_names,
                 multi_hot[keep], missing, without, problems)



def check_members(root: Path, split: str, members: SplitList, folder: FeatureFolder, missing: list[str],
                  without: list[str]) -> None:
    """Raises InputError where videos that must be there are not, or where no training video is annotated."""
    listed = len(members.names)
    if folder.streams and missing and (members.required or len(missing) == listed):
        raise InputError(f'{folder.path}: no features for {len(missing)} of the {listed} videos by {members.source}: '
                         f'{preview(missing)}; add the files or correct {members.source} (the folder holds '
                         f'{preview(folder.names, 1)})')
    if split == 'train' and listed and len(without) == listed:
        raise InputError(f'{root / "gt.json"}: annotates none of the {listed} training videos by {members.source}; '
                         f'check the names: {preview(without)}')



def inspect_features(folder: FeatureFolder, paths: dict[int, tuple[Path, ...]], split: str, problems: list[str]
                ) -> dict[int, FeatureFile]:
    """The feature files under the numbers of their videos; of those that cannot be used the problem is collect_errors."""
    from tqdm import tqdm    # it takes a fifth of the time in which a wrong command is answered
    files: dict[int, FeatureFile] = {}
    for i, own in tqdm(paths.items(), desc=f'looking at {split} features', unit='video', leave=False, delay=1):
        with collect_errors(problems):
            file = folder.inspect(own)
            first = next(iter(files.values()), file)
            if file.width != first.width:
                raise InputError(f'{file.paths[0]}: features are {file.width} wide a modality, '
                                 f'but {first.width} in {first.paths[0]}')
            files[i] = file
    return files



def multi_hot_labels(known: np.ndarray, truth: GroundTruth, class_names: list[str]) -> np.ndarray:
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

