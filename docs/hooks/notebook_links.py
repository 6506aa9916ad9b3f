"""Links in tutorials lead to pages of the book, which notebooks alone would leave as they are written."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from mkdocs.exceptions import PluginError

LINK = re.compile(r'href="(?!\w+:|/|#)([^"#]+\.(?:md|py))(#[^"]*)?"')


def on_page_content(html: str, page: Any, files: Any, **_: Any) -> str:
    """Replace the names of files by the addresses of pages."""
    if not page.file.src_uri.endswith(".py"):
        return html

    def there(found: re.Match[str]) -> str:
        source = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), found[1]))
        file = files.get_file_from_path(source)
        if file is None:
            raise PluginError(f"{page.file.src_path} links to {found[1]}, which is no page")
        return f'href="{file.url_relative_to(page.file)}{found[2] or ""}"'

    return LINK.sub(there, html)
