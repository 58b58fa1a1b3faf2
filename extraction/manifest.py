"""The data folder that an extraction writes, and its extraction.json: how each file was made.

    DIR/features/SPLIT/rgb/NAME.npy, DIR/features/SPLIT/flow/NAME.npy    float32 (L, D)
    DIR/extraction.json                                                  {"videos", "recipe", "weights", "versions"}
"""
import io
from pathlib import Path
from typing import Any

import numpy as np

from engine.lock import Lock
from utils import (
    InputError,
    is_json,
    make_dir,
    plural,
    preview,
    quote,
    read_json,
    remove_stale_tmp,
    truncate,
    warn,
    write_bytes,
    write_json,
)

FIX = 'choose another --output, or use --overwrite'


def write_array(path: Path, rows: np.ndarray) -> None:
    """Write a `.npy` file atomically."""
    make_dir(path.parent)
    content = io.BytesIO()
    np.save(content, rows)
    write_bytes(path, content.getbuffer())


class Manifest:
    """extraction.json of an output folder: the videos that are extracted, the recipe, the weights, the versions."""

    def __init__(self, folder: Path, split: str, streams: tuple[str, ...], recipe: dict, weights: dict, versions: dict,
                 overwrite: bool, lock: Lock | None = None):
        self.folder, self.split, self.streams, self.overwrite, self.lock = folder, split, streams, overwrite, lock
        self.path = folder / 'extraction.json'
        self.content: dict[str, Any] = {'videos': {}, 'recipe': recipe, 'weights': weights, 'versions': versions}

    def open(self, names: list[str]) -> None:
        """Read an earlier manifest before the videos `names` are extracted, and write the current one.

        Raises InputError where the folder contains features of another recipe or of unknown origin.
        """
        for stream in self.streams:  # of a killed extraction
            remove_stale_tmp(self.folder / 'features' / self.split / stream, '*')
        if self.path.exists():
            self.resume_from(self.read(), names)
        elif not self.overwrite:
            for path in (path for name in names for path in self.files(name)):
                if path.exists():
                    raise InputError(f'{path}: exists, but {self.path.name} does not, so its origin is unknown; {FIX}')
        write_json(self.path, self.content)

    def read(self) -> dict:
        """Read the earlier manifest; raises InputError where it is not one."""
        saved = read_json(self.path)
        parts = list(self.content)
        if not isinstance(saved, dict) or not all(isinstance(saved.get(part), dict) for part in parts):
            problem = f'needs the objects {", ".join(parts)}'
        elif not is_json(saved):
            problem = 'contains NaN, infinity or too many nested levels'
        else:
            keys = {'frames', 'rows', 'size', 'split'}
            wrong = [name for name, entry in saved['videos'].items()
                     if not isinstance(entry, dict) or not keys <= entry.keys()]
            if not wrong:
                return saved
            problem = f'the entry of {quote(wrong[0])} lacks frames, rows, size or split'
        raise InputError(f'{self.path}: {problem}; remove the file and {FIX}')

    def resume_from(self, saved: dict, names: list[str]) -> None:
        """Take over the videos of an earlier extraction if recipe and weights are the same.

        Raises InputError where they differ, unless all earlier videos are among `names` and are overwritten.
        """
        current = self.content
        before = saved['recipe']
        if 'stride' in current['recipe']:
            before = {'stride': 16} | before  # earlier versions had no other
        changed = describe_changes(before, current['recipe'])
        changed += describe_changes(weights_ids(saved), weights_ids(current))
        if not changed or not saved['videos']:
            current['videos'] = saved['videos']
            newer = {key: saved['versions'].get(key) for key in current['versions']}
            if saved['videos'] and (changes := describe_changes(newer, current['versions'])):
                warn(f'{self.path}: earlier videos were extracted with other versions ({", ".join(changes)})')
            return
        if not self.overwrite:
            raise InputError(f'{self.path}: {plural(len(saved["videos"]), "video")} extracted with another recipe '
                             f'({"; ".join(changed)}); {FIX}')
        if others := [name for name in saved['videos'] if name not in names]:
            raise InputError(f'{self.path}: contains {preview(others)}, extracted with another recipe; extract these '
                             f'videos again as well, or choose another --output')

    def files(self, name: str) -> list[Path]:
        """Return the feature files of a video."""
        return [self.folder / 'features' / self.split / stream / f'{name}.npy' for stream in self.streams]

    def has(self, name: str, video: Path) -> bool:
        """Return whether a video is extracted; raises InputError where its features are those of another video."""
        entry = self.content['videos'].get(name)
        if entry is None:
            return False
        if entry['split'] != self.split:
            raise InputError(f'{self.path}: {quote(name)} belongs to the split {truncate(entry["split"], 40)}; choose '
                             f'another --output')
        if self.overwrite:
            return False
        if not video.is_file():  # reported in its turn
            return False
        if entry['size'] != video.stat().st_size:
            raise InputError(f'{video}: {self.folder} contains features of another file of this name '
                             f'({truncate(entry.get("file"))}, {truncate(entry["size"], 40)} bytes); {FIX}')
        return all(path.is_file() for path in self.files(name))

    def write(self, name: str, streams: dict[str, np.ndarray], entry: dict) -> None:
        """Write the rows of a video, one file per stream, and then its entry, sorted by name."""
        if self.lock:
            self.lock.check()
        for path in self.files(name):
            write_array(path, streams[path.parent.name])
        self.content['videos'] = dict(sorted({**self.content['videos'], name: entry}.items()))
        write_json(self.path, self.content)


def describe_changes(before: dict, now: dict) -> list[str]:
    """Return a line for each key whose value differs."""
    return [f'{truncate(key, 40)} {truncate(before.get(key), 60)}, now {truncate(now.get(key), 60)}'
            for key in {**before, **now} if before.get(key) != now.get(key)]


def weights_ids(content: dict) -> dict[str, Any]:
    """Return the git blob ids of the weights by modality: the files may have been renamed."""
    return {f'{modality} weights': file.get('git_blob') if isinstance(file, dict) else file
            for modality, file in content['weights'].items()}
