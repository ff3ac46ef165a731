"""What a page of the docs shows: files of Python, and commands of bash, in its order."""
import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / 'docs'
BLOCK = re.compile(r'^```(\w+)\n(.*?)^```$', re.S | re.M)
NAME = re.compile(r'# (\w+\.py)\n')  # the first line of a file that is shown


def steps(name):
    """Of a page: (file name, text) of files and (None, text) of commands, in order."""
    found = []
    for language, text in BLOCK.findall((DOCS / name).read_text()):
        if language == 'bash':
            found.append((None, text))
        elif language == 'python' and (file := NAME.match(text)):
            found.append((file[1], text))
    return found


def files(name):
    """The files that a page shows, by name."""
    return {file: text for file, text in steps(name) if file}
