"""What a template asks of contents: what is promised for it, and what cannot be answered for all of them."""

from datetime import date

import pytest

from tunewright.data.watched import Looked, Needs, WatchedTemplate

MESSAGES = [{"role": "user", "content": "why q"}, {"role": "assistant", "content": "so w"}]
LOOP = "{%% for m in messages %%}{%% set c = m.content %%}[%s]{%% endfor %%}"


def needs_of(inner, **variables):
    watched = WatchedTemplate(LOOP % inner, variables)
    return watched.render(MESSAGES, generate=False), watched.needs


@pytest.mark.parametrize(
    ("inner", "text", "needs"),
    [
        ("{{ c }}", "[why q][so w]", Needs()),
        ("{{ m.role + ': ' + c + '\\n' }}", "[user: why q\n][assistant: so w\n]", Needs()),
        ("{% if c %}{{ c }}{% endif %}", "[why q][so w]", Needs()),
        ("{% if c is string and c is not none and c != none %}{{ c }}{% endif %}", "[why q][so w]", Needs()),
        ("{{ c | trim }}", "[why q][so w]", Needs(stripped=True)),
        ("{{ (' ' + c) | trim }}", "[why q][so w]", Needs(stripped=True)),
        ("{{ c.lstrip('\\n') }}", "[why q][so w]", Needs(stripped=True)),
        ("{% set d %} {{ c }} {% endset %}{{ d | trim }}", "[why q][so w]", Needs(stripped=True)),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(c) }}", "[<why q>][<so w>]", Needs()),
        ("{% generation %}{{ c }}{% endgeneration %}", "[why q][so w]", Needs()),
        ("{{ c.split('</think>')[-1] }}", "[why q][so w]", Needs(absent={"</think>"})),
        ("{{ 1 if '</a>' in c else 0 }}{{ c }}", "[0why q][0so w]", Needs(absent={"</a>"})),
        ("{{ 1 if c == 'a' or c in ('b', '') else 0 }}{{ c }}", "[0why q][0so w]", Needs(absent={"a", "b"})),
        ("{{ 1 if c.startswith('a') else 0 }}{{ c }}", "[0why q][0so w]", Needs(absent={"a"})),
        ("{{ 1 if 'a' not in 'bc' and 'a' in ['a'] else 0 }}{{ c }}", "[1why q][1so w]", Needs()),
        (
            "{{ c if 'content' in m }}{{ '' if '</a>' not in c else 0 }}",
            "[why q][so w]",
            Needs(absent={"</a>"}),
        ),
        ("{{ c | replace('x', 'y') }}", "[why q][so w]", Needs(absent={"x"})),
        ("{{ strftime_now('%d %b %Y')[:0] }}{{ c }}", "[why q][so w]", Needs(day=date.today().isoformat())),
    ],
)
def test_what_is_asked_becomes_a_promise(inner, text, needs):
    assert needs_of(inner) == (text, needs)


@pytest.mark.parametrize(
    "inner",
    [
        *("{{ c[:9] }}", "{{ c | length }}", "{{ c | upper }}", "{{ c.title() }}", "{{ {'a': 1}[c] }}"),
        *("{{ c ~ 'x' }}", "{{ [c] | join }}", "{{ '%s' % c }}", "{{ '{}'.format(c) }}", "{{ c | first }}"),
        *("{% for x in c %}{{ x }}{% endfor %}", "{{ c < 'a' }}", "{{ c * 2 }}", "{{ c.strip('ab') }}"),
        *("{{ 'y q' in c }}", "{{ 'a' in ('x' + c) }}", "{{ ('x' + c) == 'a' }}", "{{ c | list }}"),
        *("{% set d %}{{ c }}{% endset %}{{ 'a' in d }}", "{{ c in messages[0].content }}", "{{ c | int }}"),
        *("{% macro f(x) %}{{ x }}{% endmacro %}{{ f(c) | length }}", "{{ strftime_now('%H:%M') }}"),
        *("{{ '-'.join([c]) }}", "{{ c in 'why q' }}", "{{ c not in 'so' }}", "{{ 'x'.replace('x', c) }}"),
        *("{{ 'x' | replace('x', c) }}", "{{ c | tojson }}", "{{ m | tojson }}", "{{ c is in 'why q' }}"),
        *("{{ 'so w' is eq(c + '') }}", "{{ 'so'.startswith(c) }}", "{{ 1 in [1] in [[1]] }}"),
        *("{{ raise_exception('no') }}", "{{ nothing.at.all }}", "{{ c | random }}", "{{ lipsum() }}"),
    ],
)
def test_what_has_no_answer_for_all_contents_is_refused(inner):
    with pytest.raises(Looked):
        needs_of(inner)
