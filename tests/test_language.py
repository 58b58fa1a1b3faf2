"""The words of the project: plain American English and the standard terms of the field, in code and documents alike."""
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = '*.py', '*.sh', '*.md', '*.js', '*.html', '*.css', '*.toml', '*.cff', 'Dockerfile'

# Regular expressions without case, and what to write instead. A space matches line ends in comments and strings, too.
WORDS = {
    r'rooms?': 'the module or folder',
    r'doors?': 'the interface',
    r'the ground(?! truth|-truth|_truth)': 'the lowest layer',
    r'houses?': 'the project',
    r'mend(s|ed|ing)?': 'fix',
    r'(go|goes|going|gone|went) on with': 'resume, continue',
    r'nobody|somebody|everybody|whoever|whom': 'the passive, or: no one, the user',
    r'anew': 'again',
    r'lets? go|letting go': 'release',
    r'of (its|their) own': 'separate',
    r'(?<!there\s)(?-i:is|are) (?-i:none)': 'is not a valid one',
    r'processors?': 'CPU',
    r'beside': 'next to',
    r'tells|told': 'reports, prints',
    r'says|said': 'contains, reports, prints',
    r'\w*(colour|neighbour|behaviour|favour)\w*': 'color, neighbor, behavior, favor',
    r'\w*(normal|binar|initial|optim|standard|summar|visual|organ|recogn|quant|serial|minim|maxim|util)is'
    r'(e|es|ed|ing|er|ers|ation|ations)': '-ize',
    r'labell(ed|ing)': 'labeled',
    r'\w*centre[ds]?|grey\w*': 'center, gray',
    r'judgements?': 'judgment',
    r'licen[c]es?': 'license',
    r'analyse[ds]?(?= the| a)': 'analyze',
    # What only the authors' workplace has.
    r'farm-\w+|shared/\w+\.md|(names|spec|design|brief)\.md|section \d+ of the method|issue 21': 'nothing',
}
PATTERN = re.compile(rf'\b({"|".join(WORDS)})\b'.replace(' ', r'[\s#*>\'f]+'), re.IGNORECASE)

# Words that a file may contain: {path: {word in lower case: reason}}.
EXCEPTIONS: dict[str, dict[str, str]] = {}


def project_files():
    command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', *KINDS]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).exists() and ROOT / name != Path(__file__)]


def find_words(text):
    """Return the words that must not be used, with the line."""
    return [(' '.join(found[0].split()).lower(), text[:found.start()].count('\n') + 1)
            for found in PATTERN.finditer(text)]


def test_words_that_must_not_be_used():
    wrong = [f'{name}:{line} {word}' for name in project_files()
             for word, line in find_words((ROOT / name).read_text(encoding='utf-8'))
             if word not in EXCEPTIONS.get(name, {})]
    assert not wrong, '\n'.join([f'{len(wrong)} words, see WORDS in {Path(__file__).name}:', *wrong])


def test_the_patterns_match_words_and_phrases_only():
    text = ('The ground truth is None. Besides, a preprocessor labels the background; a mendable mushroom.\n'
            'It goes on\n# with a colour, mended; aria-labelledby, beside the ground of its own.')
    assert find_words(text) == [('goes on # with', 2), ('colour', 3), ('mended', 3), ('beside', 3),
                                ('the ground', 3), ('of its own', 3)]


def test_every_exception_is_needed():
    for name, words in EXCEPTIONS.items():
        found = {word for word, _ in find_words((ROOT / name).read_text(encoding='utf-8'))}
        assert set(words) <= found, name
