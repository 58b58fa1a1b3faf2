"""What an extraction writes: a data folder, and in its extraction.json how each file of it was made.

    DIR/features/SPLIT/rgb/NAME.npy, DIR/features/SPLIT/flow/NAME.npy    float32 (L, D)
    DIR/extraction.json                                                  {"videos", "recipe", "weights", "versions"}
"""
import fcntl
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from utils import InputError, preview, plural, is_json, quote, read_json, truncate, warn, write_bytes, write_json

MEND = 'give another --output, or --overwrite'


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make a folder and keep other extractions out of it meanwhile. Raises InputError where one is at work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{folder}: cannot be made: {error.strerror}') from None
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f'{folder}: another extraction writes here; wait for it, or another --output') from None
        yield
    finally:
        os.close(handle)


def write_array(path: Path, rows: np.ndarray) -> None:
    """Write a `.npy` file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, rows)
    write_bytes(path, content.getbuffer())


class Record:
    """extraction.json of an output folder: which videos are there already, and by which recipe."""

    def __init__(self, folder: Path, split: str, streams: tuple[str, ...], recipe: dict, weights: dict, versions: dict,
                 overwrite: bool):
        self.folder, self.split, self.streams, self.overwrite = folder, split, streams, overwrite
        self.path = folder / 'extraction.json'
        self.content: dict[str, Any] = {'videos': {}, 'recipe': recipe, 'weights': weights, 'versions': versions}

    def open(self, names: list[str]) -> None:
        """Read what is there before the videos `names` are extracted, and write it for a start.

        Raises InputError where the folder holds what this would spoil: features by another recipe or of unknown origin.
        """
        if self.path.exists():
            self.take_over(self.read(), names)
        elif not self.overwrite:
            for path in (path for name in names for path in self.files(name)):
                if path.exists():
                    raise InputError(f'{path}: is there, but no extraction.json that tells where it is from; {MEND}')
        write_json(self.path, self.content)

    def read(self) -> dict:
        old = read_json(self.path)
        parts = list(self.content)
        if not isinstance(old, dict) or not all(isinstance(old.get(part), dict) for part in parts):
            raise InputError(f'{self.path}: needs the objects {", ".join(parts)}; {MEND} after removing it')
        if not is_json(old):
            raise InputError(f'{self.path}: holds NaN, infinity or nests without end; {MEND} after removing it')
        for name, entry in old['videos'].items():
            if not isinstance(entry, dict) or not {'frames', 'rows', 'size', 'split'} <= entry.keys():
                raise InputError(f'{self.path}: the entry of {quote(name)} lacks frames, rows, size or split; '
                                 f'{MEND} after removing the file')
        return old

    def take_over(self, old: dict, names: list[str]) -> None:
        """Keep the videos of an earlier extraction, if they were made as the new ones will be."""
        changed = [f'{truncate(key, 40)} {truncate(before.get(key), 60)}, now {truncate(now.get(key), 60)}'
                   for before, now in ((old['recipe'], self.content['recipe']), (ids(old), ids(self.content)))
                   for key in {**before, **now} if before.get(key) != now.get(key)]
        if not changed or not old['videos']:
            self.content['videos'] = old['videos']
            if old['videos'] and old['versions'] != self.content['versions']:
                news = [f'{key} {truncate(old["versions"].get(key), 60)}, now {version}'
                        for key, version in self.content['versions'].items() if old['versions'].get(key) != version]
                warn(f'{self.path}: earlier videos were extracted by other versions ({", ".join(news)})')
            return
        if not self.overwrite:
            raise InputError(f'{self.path}: {plural(len(old["videos"]), "video")} by another recipe '
                             f'({"; ".join(changed)}); {MEND}')
        if others := [name for name in old['videos'] if name not in names]:
            raise InputError(f'{self.path}: holds {preview(others)} by another recipe, which would be mixed with new '
                             'ones; give those videos too, or another --output')

    def files(self, name: str) -> list[Path]:
        return [self.folder / 'features' / self.split / stream / f'{name}.npy' for stream in self.streams]

    def has(self, name: str, video: Path) -> bool:
        """Whether the features of a video are there. Raises InputError where they are those of another video."""
        entry = self.content['videos'].get(name)
        if entry is None:
            return False
        if entry['split'] != self.split:
            raise InputError(f'{self.path}: {quote(name)} is in the split {truncate(entry["split"], 40)}; give another '
                             f'--output')
        if self.overwrite:
            return False
        if entry['size'] != video.stat().st_size:
            raise InputError(f'{video}: is not the file whose features are in {self.folder} '
                             f'({truncate(entry.get("file"))}, {truncate(entry["size"], 40)} bytes); {MEND}')
        return all(path.is_file() for path in self.files(name))

    def write(self, name: str, streams: dict[str, np.ndarray], entry: dict) -> None:
        """Write the rows of a video, a file a stream, and only then that they are there."""
        for path in self.files(name):
            write_array(path, streams[path.parent.name])
        self.content['videos'][name] = entry
        write_json(self.path, self.content)


def ids(content: dict) -> dict[str, Any]:
    """The ids of the weights, by modality; a file may have been renamed since."""
    return {f'{modality} weights': file.get('git_blob') if isinstance(file, dict) else file
            for modality, file in content['weights'].items()}
