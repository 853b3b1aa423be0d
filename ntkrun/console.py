"""rich's console for ntkrun's own lines and tables."""

from typing import Any

from rich.console import Console
from rich.text import Text

from ntkrun.spelling import spelled


class PlainConsole(Console):
    """Text is shown as it stands: none of it is markup, nothing in it is coloured. What the stream cannot show is
    spelled out before it is laid out, so that columns stay columns."""

    def __init__(self, **how: Any):
        super().__init__(highlight=False, markup=False, emoji=False, **how)

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(spelled(text, self.encoding), **how)
