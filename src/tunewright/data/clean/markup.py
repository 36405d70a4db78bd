"""HTML to text: tags and entities of web pages become the lines and characters that a reader would see.

Only what is HTML beyond doubt is touched: tags of its vocabulary, with attributes written as in HTML, closed
where they must be. XML, JSON, code, a ``<`` in maths, a tag that a text speaks about: all stay.
"""

from __future__ import annotations

import html
import re
from html.entities import html5

from tunewright.data.clean.code import outside_code

_MAY_STAND_ALONE = "br hr img p li td th tr dt dd wbr"
_PAIRS = """
    a abbr article aside b big blockquote body caption center cite code col colgroup dd del div dl dt em
    figcaption figure font footer h1 h2 h3 h4 h5 h6 head header html i ins kbd li main mark nav ol p pre q
    samp section small span strike strong style script sub sup table tbody td tfoot th thead time title tr tt
    u ul var
"""
_PARAGRAPHS = """
    p div article aside blockquote center dl figure footer h1 h2 h3 h4 h5 h6 header hr main nav ol section
    table ul body head html
"""
_ALONE = frozenset(_MAY_STAND_ALONE.split())
_PAIRED = frozenset(_PAIRS.split())
_LINES = {
    **dict.fromkeys(("br", "tr", "dd", "dt", "caption", "figcaption", "title"), "\n"),
    **dict.fromkeys(_PARAGRAPHS.split(), "\n\n"),
}
_BLOCKS = frozenset(("li", "td", "th", *_LINES))
_TAG = re.compile(
    r"<(/?)([A-Za-z][A-Za-z0-9]{0,14}+)"
    r"((?:\s++[A-Za-z_:@][\w:.-]*+\s*+=\s*+(?:\"[^\"<>]*+\"|'[^'<>]*+'|[^\s\"'<>=`]++))*+)\s*+(/?)>"
)
_ELEMENT = re.compile(r"<(/?)([A-Za-z][\w.:-]{0,60}+)(?:\s[^<>]{0,300}+)?/?>")
_ITEM_ALONE = re.compile(r"^(-|\d{1,4}\.)\n{1,4}(?=[^\s-])", re.MULTILINE)
_ENTITY = re.compile(r"&(?:amp;|#38;|#x26;)*(#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,24});")
_SHOWN_TAG = re.compile(r"&(?:amp;)*lt;[/!?A-Za-z]")
_PRE = re.compile(r"<pre(?:\s[^<>]{0,200}+)?>", re.IGNORECASE)
_CODE = re.compile(r"<code(?:\s[^<>]{0,200}+)?>([^<>`\n]{1,400}+)</code>", re.IGNORECASE)
_HIDDEN = re.compile(r"<(script|style)(?:\s[^<>]{0,300}+)?>|(<!--)", re.IGNORECASE)
_ABOUT = re.compile(
    r"\b(?:x?html5?|xml|css|svg|jsx?|tsx?|php|javascript|markup|tags?|dom|xpath|beautiful ?soup|scrap\w+"
    r"|web ?(?:page|site)s?|landing page|code|snippets?|script|templates?|regex\w*|entit(?:y|ies)|react"
    r"|angular|vue|wordpress|bootstrap|markdown|xss|pars\w+|selenium)\b",
    re.IGNORECASE,
)
_SPEAKS_OF_TAGS = re.compile(r"(?<![./\w])(?:x?html5?|css|javascript|markup|tags?)\b", re.IGNORECASE)
ROUNDS = 4  # one change may uncover another; text that still changes after so many is left as it is


def is_about_markup(question: str) -> bool:
    """Whether a question speaks of HTML, XML, templates or code, so that markup in the row is its subject."""
    return _ABOUT.search(question) is not None


def has_html(text: str) -> bool:
    """Whether ``html_to_text`` would change the text."""
    return html_to_text(text) != text


def html_to_text(text: str) -> str:
    """Block tags as line ends, items as ``- ``, other tags without trace, entities as characters.

    ``<pre>`` and ``<code>`` become code in backticks. Scripts, styles and comments go.
    """
    if "<" not in text and ("&" not in text or ";" not in text):
        return text
    changed = text
    for _ in range(ROUNDS):
        before = changed
        changed = outside_code(outside_code(changed, _with_code_marked), _plain)
        if changed == before:
            return text if changed != text and _SPEAKS_OF_TAGS.search(_TAG.sub(" ", text)) else changed
    return text


def _plain(text: str) -> str:
    if _is_data(text):
        return text
    tags = _markup_in(text) if "<" in text else frozenset()
    if tags is None:
        return text
    if tags & {"script", "style"} or ("<!--" in text and "-->" in text):
        text = _without_hidden(text)
    if tags:
        text = _without_tags(text, tags)
    if "&" in text:
        text = _decoded(text)
    return _respaced(text) if tags & _BLOCKS else text


def _is_data(text: str) -> bool:
    """JSON or XML as a whole."""
    bare = text.strip()
    return bare.startswith(("<?xml", "<svg")) or (bare[:1] + bare[-1:]) in ("{}", "[]")


def _markup_in(text: str) -> frozenset[str] | None:
    """Names of the tags that are markup; ``None`` where elements of another vocabulary say that it is XML.

    Names in capitals, like ``<PERSON>``, stand for something taken out and are no elements.
    """
    opened: set[str] = set()
    closed: set[str] = set()
    foreign: set[str] = set()
    for tag in {match[0] for match in _ELEMENT.finditer(text)}:
        written = tag.strip("</>").split(None, 1)[0]
        name, end = written.lower(), tag[1] == "/"
        if name in _PAIRED or name in _ALONE:
            if _TAG.fullmatch(tag):
                (closed if end else opened).add(name)
        elif end and not written.isupper() and name not in ("think", "s"):
            foreign.add(name)
    if foreign:
        return None
    return frozenset((opened & closed) | (opened & _ALONE))


def _without_tags(text: str, tags: frozenset[str]) -> str:
    numbers: list[int] = []  # of the items so far in each list that is open; -1 where they have no numbers

    def seen(match: re.Match[str]) -> str:
        name, end = match[2].lower(), bool(match[1])
        if name not in tags or _in_table(match):
            return match[0]
        if name in ("ol", "ul"):
            _open_or_close(numbers, name, end)
        if name == "li" and not end and numbers and numbers[-1] >= 0:
            numbers[-1] += 1
            return f"\n{numbers[-1]}. "
        if name in _LINES:
            return "" if end and name == "br" else _LINES[name]
        if name in ("td", "th"):
            return "" if end else " "
        if end:
            return ""
        return {"li": "\n- ", "sup": "^"}.get(name, "")

    return _TAG.sub(seen, text)


def _open_or_close(numbers: list[int], name: str, end: bool) -> None:
    if not end:
        numbers.append(0 if name == "ol" else -1)
    elif numbers:
        numbers.pop()


def _respaced(text: str) -> str:
    """White space as a browser shows it: single, and at most one blank line."""
    text = re.sub(r"[ \t]*+\n[ \t]*+", "\n", text)
    text = _ITEM_ALONE.sub(r"\1 ", text)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]{2,}", " ", text)).strip()


def _in_table(match: re.Match[str]) -> bool:
    """Inside a row of a Markdown table, which a line end would break."""
    text = match.string
    return text[text.rfind("\n", 0, match.start()) + 1 :][:12].lstrip().startswith("|")


def _without_hidden(text: str) -> str:
    """Without comments, and scripts and styles with what stands in them."""
    kept, position, lower = [], 0, text.lower()
    while (match := _HIDDEN.search(text, position)) is not None:
        close = "-->" if match[2] else f"</{match[1].lower()}>"
        end = lower.find(close, match.end())
        if end < 0:
            break
        kept.append(text[position : match.start()])
        position = end + len(close)
    return "".join([*kept, text[position:]])


def _decoded(text: str) -> str:
    """Entities as characters. Where a text shows tags (``&lt;b&gt;``), they stay shown."""
    shows_tags = _SHOWN_TAG.search(text) is not None

    def character(match: re.Match[str]) -> str:
        name = match[1]
        if text[match.start() - 1 : match.start()] in ("=", "?"):  # a parameter in the address of a page
            return match[0]
        if name[0] != "#" and f"{name};" not in html5:
            return match[0]
        found = html.unescape(f"&{name};")
        if found in "<>" and shows_tags:
            return match[0]
        return " " if found == "\xa0" else found

    return _ENTITY.sub(character, text)


def _with_code_marked(text: str) -> str:
    """``<pre>`` as fenced blocks and ``<code>`` in backticks, with their entities as characters."""
    if "</pre>" in text.lower():
        text = _fenced(text)
    return _CODE.sub(lambda m: f"`{html.unescape(m[1])}`", text) if "</code>" in text else text


def _fenced(text: str) -> str:
    kept, position, lower = [], 0, text.lower()
    while (match := _PRE.search(text, position)) is not None:
        end = lower.find("</pre>", match.end())
        if end < 0:
            break
        code = html.unescape(_TAG.sub("", text[match.end() : end])).strip("\n")
        fence = "~~~" if "```" in code else "```"
        kept.append(f"{text[position : match.start()].rstrip()}\n{fence}\n{code}\n{fence}\n")
        position = end + len("</pre>")
    return "".join([*kept, text[position:]])
