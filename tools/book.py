"""Preprocessor of mdbook: documents outside of docs/, and links that lead to the repository.

README.md is the first page, and others are chapters too. A link to another file of the repository, as a source, leads
to it on GitHub.
"""

import json
import posixpath
import re
import sys

REPOSITORY = "https://github.com/djkunkel/dj-flux2/blob/main/"
# Documents of the root behind those of docs/, by their titles in the list of chapters.
ROOT = {"Architecture": "ARCHITECTURE.md", "Contributing": "CONTRIBUTING.md", "Changes": "CHANGELOG.md"}
FRONT = "README.md"


def relinked(text, path, is_chapter):
    """Text of the document at `path` of the repository, with its links as the site needs them.

    >>> relinked("[a](../README.md#x) [b](../crates/a.rs) [c](d.md)", "docs/e.md", lambda path: path.endswith(".md"))
    '[a](index.md#x) [b](https://github.com/djkunkel/dj-flux2/blob/main/crates/a.rs) [c](d.md)'
    >>> relinked("[a](docs/b.md) [c](#d) [e](https://f)", "README.md", lambda path: True)
    '[a](b.md) [c](#d) [e](https://f)'
    """
    # A chapter of the root is beside the documents of docs/ on the site.
    here = posixpath.dirname(path.removeprefix("docs/"))

    def moved(match):
        target, anchor = match[2], match[3] or ""
        if not target or "://" in target:
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if not is_chapter(file) and not file.startswith("docs/images"):
            return f"{match[1]}({REPOSITORY}{file}{anchor})"
        return f"{match[1]}({posixpath.relpath(on_site(file), here or '.')}{anchor})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    link = r"(\])\(([^()\s#]*)(#[^()\s]*)?\)"
    parts[::2] = [re.sub(link, moved, part) for part in parts[::2]]
    return "".join(parts)


def on_site(file):
    """Path of a document on the site."""
    return "index.md" if file == FRONT else file.removeprefix("docs/")


def chapter(name, path, is_chapter):
    """A chapter of a document of the root."""
    with open(path, encoding="utf-8") as file:
        content = relinked(file.read(), path, is_chapter)
    empty = {"number": None, "sub_items": [], "source_path": None, "parent_names": []}
    return {"Chapter": {"name": name, "content": content, "path": on_site(path), **empty}}


def chapters(items):
    for item in items:
        if "Chapter" in item:
            yield item["Chapter"]
            yield from chapters(item["Chapter"]["sub_items"])


def main():
    if sys.argv[1:2] == ["supports"]:
        return
    _, book = json.load(sys.stdin)
    items = book["items"]
    files = {f"docs/{known['path']}" for known in chapters(items)} | set(ROOT.values()) | {FRONT}
    for known in chapters(items):
        known["content"] = relinked(known["content"], f"docs/{known['path']}", files.__contains__)
    items.insert(0, chapter("dj-flux2", FRONT, files.__contains__))
    items.extend(chapter(name, path, files.__contains__) for name, path in ROOT.items())
    json.dump(book, sys.stdout)


if __name__ == "__main__":
    main()
