"""A data folder: the videos of a split, their feature files and labels.

    gt = read_annotations(root)
    split = find_split(root, 'train', gt, gt.labels, ('rgb', 'flow')).require()  # Split: reads headers, not features
"""
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from formats.annotations import (
    GroundTruth,
    TimeBase,
    annotated_subsets,
    check_unique,
    in_subset,
    read_split_file,
    subset_name,
)
from formats.columns import nearest_name
from formats.features import (
    CONVERT,
    MIN_SINGLE_WIDTH,
    FeatureFile,
    FeatureFolder,
    find_flat_features,
    find_folder,
    split_folders,
)
from formats.videos import match_videos
from utils import InputError, plural, preview, progress, quote


class SplitList(NamedTuple):
    """The videos of a split, and where they are listed."""

    source: str  # split_train.txt, a subset of gt.json, labels.csv, or a folder of features
    names: list[str]
    required: bool  # all of them must have features: true for a list file; subsets and labels may contain more videos


@dataclass
class Split:
    """The V videos of a split before their features are read, and everything that is wrong with it.

    `require` raises the first problem; a check of the folder prints all of them.
    """

    name: str  # 'train' or 'test'
    members: SplitList
    gt: GroundTruth
    folder: FeatureFolder
    names: list[str]  # V, spelled as in the annotations if they contain the video
    files: list[FeatureFile]  # V
    gt_index: np.ndarray  # (V,) index into gt.videos, -1 where a video is not in them
    class_names: list[str]  # C
    labels: np.ndarray  # (V, C) multi-hot, float32
    without_features: list[str]
    without_annotation: list[str]  # excluded from training, included in a test
    problems: list[str] = field(default_factory=list)  # each would stop a run

    def require(self) -> 'Split':
        """Return the split; raises InputError with the first problem if there is one."""
        if self.problems:
            raise InputError(self.problems[0])
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """Of all features together: (sum L, M D)."""
        return sum(file.length for file in self.files), self.files[0].width * len(self.folder.modalities)

    @property
    def dtype(self) -> np.dtype:
        """Of all features together: float16 if every file is float16, else float32."""
        return np.dtype(np.float16 if all(file.dtype.itemsize == 2 for file in self.files) else np.float32)

    @property
    def length_mismatch(self) -> list[str]:
        """The videos whose RGB and flow files differ in length."""
        return [name for name, file in zip(self.names, self.files) if file.length_mismatch]

    @property
    def unlisted_files(self) -> list[str]:
        """The videos with features that neither annotations nor lists contain."""
        names = self.folder.names
        known = (match_videos(names, self.members.names) >= 0) | (match_videos(names, self.gt.videos) >= 0)
        return [name for name, is_known in zip(names, known) if not is_known]

    @property
    def durations(self) -> np.ndarray:
        """(V,) seconds, NaN where unknown."""
        return np.append(self.gt.durations, np.nan)[self.gt_index]

    def summary(self) -> 'Summary':
        """Count what the split contains. Annotations are counted over all listed videos, with or without features."""
        gt = self.gt
        listed = match_videos(self.members.names, gt.videos)
        is_listed = np.isin(gt.video, listed)
        video, label, segments = gt.video[is_listed], gt.label[is_listed], gt.segments[is_listed]
        tagged = gt.tag_video[np.isin(gt.tag_video, listed)]
        distinct = np.unique(np.column_stack([video, label, segments]), axis=0)
        annotated = {*video.tolist(), *tagged.tolist()}
        subsets = {subset_name(gt.subsets[v]) for v in annotated} - {''}
        unlisted = [gt.videos[v] for v in np.unique(gt.video_labels()[0]).tolist()
                    if v not in annotated and subset_name(gt.subsets[v]) in subsets]
        return Summary(self.members.source, len(self.members.names), len(annotated), len(video),
                       int((segments[:, 1] <= segments[:, 0]).sum()), len(video) - len(distinct),
                       self.without_features, self.without_annotation, unlisted, self.length_mismatch,
                       len(tagged))

    def time_base(self, feature_fps: float | str, snippet_frames: float) -> TimeBase:
        """Return the time base of the features at these flags."""
        gt = self.gt
        fps = np.array([gt.fps.get(gt.videos[v], np.nan) if v >= 0 else np.nan for v in self.gt_index.tolist()])
        last_end = np.zeros(len(gt.videos) + 1)  # and of index -1, a video that is not in the annotations
        np.maximum.at(last_end, gt.video, gt.segments[:, 1])
        return TimeBase(self.names, np.array([file.length for file in self.files]), self.durations, fps,
                        last_end[self.gt_index], feature_fps, snippet_frames)

    def frame_rates(self, feature_fps: float | str, snippet_frames: float) -> np.ndarray:
        """Return the frame rate of the features of each video: (V,); raises InputError where it is unknown."""
        rates = self.time_base(feature_fps, snippet_frames).frame_rates()
        if unknown := [name for name, rate in zip(self.names, rates) if np.isnan(rate)]:
            raise InputError(f'{self.folder.path}: --feature_fps {feature_fps}: neither duration nor fps is known for '
                             f'{len(unknown)} of {plural(len(rates), f"{self.name} video")}: {preview(unknown)}; add '
                             f'"duration" to gt.json, or give a number')
        return rates


class Summary(NamedTuple):
    """What a split contains, and what is irregular about it."""

    source: str
    listed: int
    annotated: int
    instances: int
    empty_instances: int  # of zero or negative length
    duplicate_instances: int  # exact repetitions
    without_features: list[str]
    without_annotation: list[str]
    unlisted: list[str]  # annotated, in a subset of the listed videos
    length_mismatch: list[str]  # RGB and flow differ by a row or two
    tags: int  # labels without a time

    def lines(self) -> list[str]:
        """Return the counts, then one line for each irregularity."""
        irregular = [f'{count} {what}' for count, what in ((self.empty_instances, 'of no length'),
                                                           (self.duplicate_instances, 'exact duplicates')) if count]
        included = f' ({", ".join(irregular)}; all are included)' if irregular else ''
        tags = f', {plural(self.tags, "label")} without a time' if self.tags else ''
        lines = [f'{plural(self.listed, "video")} in {self.source}, {self.annotated} of them annotated, '
                 f'{plural(self.instances, "instance")}{included}{tags}']
        for names, what in ((self.without_features, 'without features'),
                            (self.without_annotation, 'without annotation'),
                            (self.unlisted, 'annotated in the same subset but not listed'),
                            (self.length_mismatch, 'with a row or two more in one stream, truncated to the shorter')):
            if names:
                lines.append(f'{plural(len(names), "video")} {what}: {preview(names)}')
        return lines


# ---- finding a split ------------------------------------------------------------------------------------------------

def find_split(root: Path, split: str, gt: GroundTruth, class_names: list[str], modalities: tuple[str, ...],
               layout: str = 'auto', flat: bool = False) -> Split:
    """Find the videos of a split, their files and their labels; headers are read, features are not.

    Videos in a split file must have features; those in annotations only may lack them. Videos without annotation are
    excluded from training, and included in a test. With `flat`, and without a test folder, features need no split
    folder: all in `root`, or `root` itself, are used.
    """
    problems: list[str] = []
    members, folder = resolve_split(root, split, gt, modalities, layout, flat, problems)
    listed = members.names
    gt_index = match_videos(listed, gt.videos)
    labels = multi_hot_labels(gt_index, gt, class_names)
    paths = folder.locate(listed)
    missing = [name for name, files in zip(listed, paths) if not files]
    without_annotation = [name for name, row in zip(listed, labels) if not row.any()]
    with collect_errors(problems):
        check_members(root, split, members, folder, gt, missing, without_annotation if gt.labels else [])

    usable = [i for i in range(len(listed)) if paths[i] and (split == 'test' or labels[i].any())]
    files = inspect_features(folder, {i: paths[i] for i in usable}, split, problems)
    used = list(files)
    if not used and not problems and gt.labels:
        problems.append(f'{root}: no {split} video has both features and annotations')
    names = [gt.videos[gt_index[i]] if gt_index[i] >= 0 else listed[i] for i in used]
    return Split(split, members, gt, folder, names, list(files.values()), gt_index[used], class_names, labels[used],
                 missing, without_annotation, problems)


def has_test_videos(root: Path, gt: GroundTruth) -> bool:
    """Return whether there are test videos: a list file, a test folder, or a second subset of the annotations."""
    return (os.path.lexists(root / 'split_test.txt') or len(annotated_subsets(gt)) > 1 or
            any(folder.is_dir() for folder in split_folders(root, 'test')))


def split_to_localize(root: Path, gt: GroundTruth) -> str:
    """Return 'test', or 'train' for a folder with labeled training videos only, as after a training on them."""
    has_train = gt.labels and any(path.is_dir() for path in split_folders(root, 'train'))
    return 'train' if has_train and not has_test_videos(root, gt) else 'test'


def resolve_split(root: Path, split: str, gt: GroundTruth, modalities: tuple[str, ...], layout: str, flat: bool,
                  problems: list[str]) -> tuple[SplitList, FeatureFolder]:
    """Return the list of a split and its feature folder; both are empty where an error is added to `problems`."""
    members: SplitList | None = SplitList(f'split_{split}.txt', [], True)
    folder = FeatureFolder(root, 'none', False, modalities, [])
    is_flat = flat and not has_test_videos(root, gt)
    with collect_errors(problems):
        members = None if is_flat else resolve_split_list(root, split, gt)
    with collect_errors(problems):
        folder = (find_flat_features(root, modalities, layout) if is_flat else
                  find_folder(root, split, modalities, layout, members.names if members else None))
        if members is None:
            check_unique(folder.names, folder.streams[0].folder)
    if members is None:
        return SplitList(str(folder.path) if is_flat else 'the test folder', folder.names, False), folder
    if members.source == 'labels.csv' and split == 'train':
        members = exclude_test_videos(members, root, folder, layout)
    return members, folder


def resolve_split_list(root: Path, split: str, gt: GroundTruth) -> SplitList | None:
    """Resolve the videos of a split: its list file, else a subset of gt.json, else the videos in labels.csv.

    Of the annotated subsets (training, validation, testing) the first is for training and the last for the test. If
    there are fewer than two, all features in the test folder are tested (None). Raises InputError if nothing defines
    the training videos.
    """
    path = root / f'split_{split}.txt'
    if os.path.lexists(path):
        return SplitList(path.name, read_split_file(path), True)
    subsets = annotated_subsets(gt)
    if split == 'test' and len(subsets) < 2:
        return None
    if subsets:
        chosen = subsets[0 if split == 'train' else -1]
        names = [gt.videos[v] for v in np.flatnonzero(in_subset(gt, chosen))]
        return SplitList(f'subset {chosen}', names, False)
    labeled = np.unique(gt.video_labels()[0]).tolist()
    if (root / 'gt.json').exists() or not labeled:
        raise InputError(f'{path}: not found, and gt.json has no annotated training subset instead; write the list')
    return SplitList('labels.csv', [gt.videos[v] for v in labeled], False)


def exclude_test_videos(members: SplitList, root: Path, folder: FeatureFolder, layout: str) -> SplitList:
    """Return the training videos of labels.csv: all but those with features in the test folder only."""
    try:
        test_folder = find_folder(root, 'test', folder.modalities, layout)
    except InputError:
        return members
    train_paths, test_paths = folder.locate(members.names), test_folder.locate(members.names)
    return members._replace(names=[name for name, in_train, in_test in zip(members.names, train_paths, test_paths)
                                   if in_train or not in_test])


def multi_hot_labels(gt_index: np.ndarray, gt: GroundTruth, class_names: list[str]) -> np.ndarray:
    """Return the annotated classes of each video as multi-hot rows: (V, C) float32; `gt_index` as in Split.

    Labels that are not in `class_names` are ignored: weights for other classes cannot predict them.
    """
    matrix = np.zeros((len(gt_index), len(class_names)), np.float32)
    row = {video: i for i, video in enumerate(gt_index.tolist()) if video >= 0}
    column = {name: i for i, name in enumerate(class_names)}
    for video, label in zip(*(values.tolist() for values in gt.video_labels())):
        if video in row and gt.labels[label] in column:
            matrix[row[video], column[gt.labels[label]]] = 1
    return matrix


def check_members(root: Path, split: str, members: SplitList, folder: FeatureFolder, gt: GroundTruth,
                  missing: list[str], without_annotation: list[str]) -> None:
    """Raise InputError if required videos have no features, or if no training video is annotated."""
    num_listed = len(members.names)
    if folder.streams and missing and (members.required or len(missing) == num_listed):
        if members.source == 'labels.csv' and (match_videos(gt.labels, folder.names) >= 0).any():
            raise InputError(f'{root / "labels.csv"}: its labels are the names of the features: the columns seem to be '
                             f'swapped; correct the header to label,video')
        near = nearest_name(missing[0], folder.names)
        like = f'{quote(near)}, which is similar' if near else preview(folder.names, 1)
        source = members.source if members.required or members.source == 'labels.csv' else 'gt.json'
        raise InputError(f'{folder.path}: no features for {len(missing)} of the {num_listed} videos in '
                         f'{members.source}: {preview(missing)}; add the files or correct {source} (the folder '
                         f'contains {like})')
    if split == 'train' and num_listed and len(without_annotation) == num_listed:
        raise InputError(f'{root / "gt.json"}: annotates none of the {num_listed} training videos in '
                         f'{members.source}; check the names: {preview(without_annotation)}')


def inspect_features(folder: FeatureFolder, paths: dict[int, tuple[Path, ...]], split: str, problems: list[str]
                     ) -> dict[int, FeatureFile]:
    """Read the headers of all videos, with the keys of `paths`; unusable ones are added to `problems` instead."""
    files: dict[int, FeatureFile] = {}
    for i, of_video in progress(paths.items(), desc=f'checking {split} features', unit='video'):
        with collect_errors(problems):
            file = folder.inspect(of_video)
            first = next(iter(files.values()), file)
            if file.width != first.width:
                turned = file.length == first.length >= MIN_SINGLE_WIDTH
                raise InputError(f'{file.paths[0]}: features have width {file.width} per modality, but {first.width} '
                                 f'in {first.paths[0]}' +
                                 (f'; if the files are (width, snippets), {CONVERT}' if turned else ''))
            files[i] = file
    return files


@contextmanager
def collect_errors(problems: list[str]) -> Iterator[None]:
    """Add an InputError to `problems` instead of raising it."""
    try:
        yield
    except InputError as error:
        problems.append(str(error))
