"""Pages of the documentation: their links, headings, files and commands."""
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT) for pattern in ('*.md', 'docs/*.md', 'configs/*/README.md')
               for path in ROOT.glob(pattern))
NAME = re.compile(r'# (\w+\.py)\n')  # the first line of a file that is shown
NOT_RUN = re.compile(r'<!-- not run: (.+) -->\n?')  # before a block of bash
MARKDOWN = MarkdownIt('commonmark').enable('table')


@dataclass(frozen=True)
class Command:
    """A command line of a page.

    Args:
        page: Relative to the root.
        text: As typed; lines that go on are one.
        not_run: Why it cannot be run without more than a checkout, as the page says it in a comment; None if it can.
    """

    page: Path
    text: str
    not_run: str | None

    @property
    def words(self) -> list[str]:
        """Without what a shell would expand."""
        return shlex.split(self.text, comments=True)


def tokens(page: Path) -> list[Token]:
    """What markdown makes of a page."""
    return MARKDOWN.parse((ROOT / page).read_text())


def commands(page: Path) -> Iterator[Command]:
    """The commands of a page, in their order: lines of its blocks of bash."""
    before = None
    for token in tokens(page):
        if token.type == 'fence' and token.info == 'bash':
            reason = NOT_RUN.fullmatch(before.content) if before is not None else None
            for line in re.sub(r'\\\n\s*', '', token.content).splitlines():
                if line.strip() and not line.startswith('#'):
                    yield Command(page, line.strip(), reason and reason.group(1))
        before = token if token.type == 'html_block' else None


def steps(page: Path) -> list[tuple[str | None, str]]:
    """Files that a page shows, as (name, text), and blocks of bash that can be run, as (None, text), in their order."""
    found = []
    parsed = tokens(page)
    for before, token in zip(parsed, parsed[1:]):
        if token.type == 'fence' and token.info == 'bash':
            if not (before.type == 'html_block' and NOT_RUN.fullmatch(before.content)):
                found.append((None, token.content))
        elif token.type == 'fence' and token.info == 'python' and (file := NAME.match(token.content)):
            found.append((file[1], token.content))
    return found


def files(page: Path) -> dict[str, str]:
    """The files that a page shows, by name."""
    return {name: text for name, text in steps(page) if name}


def links(page: Path) -> Iterator[str]:
    """Where links and pictures of a page lead to."""
    for token in tokens(page):
        for child in token.children or []:
            target = child.attrGet('href') or child.attrGet('src')
            if target:
                yield str(target)


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as the hosts of repositories make them."""
    found, parsed = set(), tokens(page)
    for token, content in zip(parsed, parsed[1:]):
        if token.type == 'heading_open':
            text = ''.join(child.content for child in content.children)
            found.add(re.sub(r'[^\w\- ]', '', text.lower()).replace(' ', '-'))
    return found
