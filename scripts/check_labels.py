"""Check that a labels.csv and a folder of videos belong together, before hours go into features.

    python -m scripts.check_labels VIDEOS LABELS.csv
"""
import sys
from pathlib import Path

from formats.annotations import video_stem, read_labels
from formats.annotations import match_videos
from utils import InputError, Parser, preview, plural, print_section, quote, run_cli, warn


def check(folder: Path, labels: Path) -> None:
    """Say what is labelled, and warn of what is not. Raises InputError where nothing could be trained on."""
    if not folder.is_dir():
        raise InputError(f'{folder}: not a folder; give the folder of the videos')
    truth = read_labels(labels)
    files = [video_stem(path.name) for path in sorted(folder.iterdir()) if video_stem(path.name) != path.name]
    there = match_videos(truth.videos, files) >= 0
    if not there.any():
        raise InputError(f'{labels}: labels none of the {plural(len(files), "video")} in {folder}; write the names '
                         f'of the files, like {quote([*files, "my_video"][0])}, not {quote(truth.videos[0])}')
    if lost := [name for name, found in zip(truth.videos, there) if not found]:
        warn(f'{labels}: {plural(len(lost), "labelled video")} not in {folder}: {preview(lost)}')
    if bare := [name for name, known in zip(files, match_videos(files, truth.videos) >= 0) if not known]:
        warn(f'{folder}: {plural(len(bare), "video")} without a label, left out of the training: {preview(bare)}')
    print_section('labels', [f'{plural(int(there.sum()), "video")} with {plural(len(truth.labels), "label")}: '
                           f'{preview(truth.labels)}'])


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog='python -m scripts.check_labels', description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('videos', type=Path, help='folder of video files')
    parser.add_argument('labels', type=Path, help='a labels.csv')
    args = parser.parse_args(argv)
    return run_cli(lambda: check(args.videos, args.labels))


if __name__ == '__main__':
    sys.exit(main())
