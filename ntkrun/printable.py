"""Text from anywhere, made safe to show: nothing in it drives a terminal."""


def printable(text: str) -> str:
    """The text with each character that is not printable, line ends too, as its escape: `\\x1b`, `\\n`, `\\u202e`."""
    if text.isprintable():  # as a million ids are
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable_lines(text: str) -> str:
    """The same, line by line."""
    return "\n".join(map(printable, text.split("\n")))
