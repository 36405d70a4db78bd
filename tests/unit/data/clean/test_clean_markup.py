"""HTML becomes text; what only looks like it stays."""

import pytest

from tunewright.data.clean.markup import has_html, html_to_text, is_about_markup


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<p>One</p><p>Two</p>", "One\n\nTwo"),
        ('<div class="x"><p>A.</p><br/>&nbsp;&amp;&nbsp;<a href="x.html">more</a></div>', "A.\n\n& more"),
        ("Tea:<ul><li>a</li><li>b</li></ul>", "Tea:\n\n- a\n- b"),
        ("<ol><li><p>a</p></li><li>b</li></ol>", "1. a\n\n2. b"),
        ("H<sub>2</sub>O, 10<sup>6</sup>", "H2O, 10^6"),
        ("AT&amp;T &#x27;a&#39; 5 &lt; 6", "AT&T 'a' 5 < 6"),
        ("Tom &amp;amp; Jerry", "Tom & Jerry"),
        ("<script>f(1 < 2)</script><p>Hi</p><!-- no -->", "Hi"),
        ("So: <pre><code>a &lt;b&gt;\n</code></pre>", "So:\n```\na <b>\n```\n"),
        ("Call <code>f(&lt;x&gt;)</code>.", "Call `f(<x>)`."),
        ("<PERSON> said <i>hi</i>", "<PERSON> said hi"),
        ("<think>hm</think>Yes<br>No", "<think>hm</think>Yes\nNo"),
    ],
)
def test_html_becomes_text(source, text):
    assert html_to_text(source) == text
    assert html_to_text(text) == text
    assert has_html(source)


@pytest.mark.parametrize(
    "text",
    [
        "a < b and c > d",
        "if x<y and z>w: stop",
        "x <b> y",
        "Use the <b> and </b> tags.",
        "<answer>42</answer>",
        "<person><name>A</name><b>x</b></person>",
        '{"html": "<p>x</p>"}',
        "Write `<br>` here.",
        "```\n<p>x</p>\n```",
        "&lt;b&gt; stands for bold",
        "vector<int> v;",
        "| a<br>b | c |",
        "http://x.y/?a=1&copy=2&b=&nbsp;x",
        "Q&A, R&D;",
        "a <!-- b",
        "for (i=0; i<p; i++) {\n  f(a<b>c);\n}",
        "<i",
        "&#0xfoo; &nosuchname;",
    ],
)
def test_what_only_looks_like_html_stays(text):
    assert html_to_text(text) == text
    assert not has_html(text)


def test_a_question_may_be_about_markup():
    assert is_about_markup("Write the HTML of a login page.")
    assert not is_about_markup("How is anaemia treated?")


def split_tags(depth):
    """A tag inside a tag inside a tag: each round uncovers one more."""
    tag = "<wbr>"
    for _ in range(depth):
        tag = f"<{tag}wbr>"
    return f"{tag}x"


def test_text_that_would_go_on_changing_is_left():
    assert html_to_text(split_tags(1)) == "x"
    assert html_to_text(split_tags(9)) == split_tags(9)
