"""Videos: matching their names, and finding their files."""
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from utils import InputError, printable

SUFFIXES = ('.mp4', '.m4v', '.mov', '.mkv', '.webm', '.avi', '.mpg', '.mpeg', '.mts', '.m2ts', '.ts', '.vob', '.flv',
            '.wmv', '.3gp', '.3g2', '.ogv', '.mxf', '.y4m', '.gif')


def video_stem(name: str) -> str:
    """Return a video's name without the suffix of its file (or `.npy`)."""
    suffix = next((suffix for suffix in (*SUFFIXES, '.npy') if name.lower().endswith(suffix)), '')
    return name[:len(name) - len(suffix)]


def match_videos(names: Sequence[str], videos: Sequence[str]) -> np.ndarray:
    """Return the index into `videos` of each name: (len(names),) int64, -1 where there is none.

    `v_X` and `X` are one video. The exact spelling is preferred, because ActivityNet has ids that start with `v_`.
    Names left over may differ in their folder, suffix, outer spaces, case and Unicode form, if only one name and one
    video agree.
    """
    index = {video: i for i, video in enumerate(videos)}

    def find(name: str) -> int:
        spellings = name, 'v_' + name, name.removeprefix('v_')
        return next((index[spelling] for spelling in spellings if spelling in index), -1)

    found = np.fromiter(map(find, names), np.int64, len(names))
    if len(videos) and (found < 0).any():
        used = set(found.tolist())
        left = {name for name, i in zip(names, found.tolist()) if i < 0}
        of_key = _by_key(left), _by_key([video for i, video in enumerate(videos) if i not in used])
        pairs = {of_key[0][key][0]: index[of_key[1][key][0]] for key in of_key[0].keys() & of_key[1].keys()
                 if len(of_key[0][key]) == len(of_key[1][key]) == 1}
        found = np.array([pairs.get(name, i) for name, i in zip(names, found.tolist())], np.int64)
    return found


def _by_key(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names by what is left of them without folder, suffix, `v_`, outer spaces, case and Unicode form."""
    names_of = defaultdict(list)
    for name in names:
        stem = video_stem(name.replace('\\', '/').rsplit('/', 1)[-1].strip())
        key = unicodedata.normalize('NFC', stem.casefold()).strip()
        names_of[key.removeprefix('v_')].append(name)
    return names_of


def list_videos(folder: Path) -> list[Path]:
    """Return the video files in a folder, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != '.')


def find_videos(folder: str | os.PathLike, names: Iterable[str]) -> dict[str, Path]:
    """Return the video file in `folder`, or below it, of each of `names` that has one, with or without `v_`.

    Raises InputError if none has.
    """
    if not Path(folder).is_dir():
        raise InputError(f'{folder}: not a folder of videos')
    files = sorted(path for path in Path(folder).rglob('*') if path.suffix.lower() in SUFFIXES)
    names = list(names)
    index = match_videos(names, [path.stem for path in files])
    if (index < 0).all():
        raise InputError(f'{folder}: contains no file of these videos: they are named like '
                         f'{printable(names[0]) if names else "no video"}{SUFFIXES[0]}')
    return {name: files[i] for name, i in zip(names, index) if i >= 0}
