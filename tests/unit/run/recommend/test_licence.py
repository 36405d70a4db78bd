"""Licences: a column, a file beside the data, the front matter of a README."""

import json

import pytest

from tunewright.run.recommend.licence import Licence, licences_of, name_in


def rows(path, *licences):
    lines = [{"question": "q", "answer": "a", **({"license": name} if name else {})} for name in licences]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_nothing_is_known_where_nothing_is_said(tmp_path):
    (tmp_path / "README.md").write_text("# Data\n\nlicense: mit\n")
    (tmp_path / "SOURCE.txt").write_text("https://example.org/data")
    assert licences_of(rows(tmp_path / "a.jsonl", None)) == []


def test_a_column_says_how_often(tmp_path):
    path = rows(tmp_path / "a.jsonl", "CC BY 4.0", "mit", "CC BY 4.0", None, "house rules")
    assert licences_of(path) == [
        Licence("CC-BY-4.0", "column of the rows, 2 times"),
        Licence("MIT", "column of the rows, 1 times"),
        Licence("house rules", "column of the rows, 1 times"),
    ]


@pytest.mark.parametrize(
    ("file", "text", "name"),
    [
        ("LICENSE", "Apache License\n   Version 2.0, January 2004", "Apache-2.0"),
        ("LICENSE.txt", "Attribution-NonCommercial-ShareAlike 4.0 International", "CC-BY-NC-SA-4.0"),
        ("COPYING", "\n\nOur own terms\nand more", "Our own terms"),
        ("SOURCE.txt", "from example.org, CC BY-SA 3.0", "CC-BY-SA-3.0"),
        ("README.md", "---\nlicense: cc-by-nc-4.0\ntags: [x]\n---\n# Data\n", "CC-BY-NC-4.0"),
        ("readme.md", "---\nlicense:\n- mit\n---\n", "MIT"),
        ("a.jsonl.license", "SPDX-License-Identifier: MPL-2.0", "MPL-2.0"),
    ],
)
def test_a_file_beside_it(tmp_path, file, text, name):
    (tmp_path / file).write_text(text)
    assert licences_of(rows(tmp_path / "a.jsonl", None)) == [Licence(name, file)]


def test_broken_front_matter_says_nothing(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    assert licences_of(rows(tmp_path / "a.jsonl", None)) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Permission is hereby granted, free of\ncharge, to any person", "MIT"),
        ("GNU LESSER GENERAL PUBLIC LICENSE Version 3", "LGPL"),
        ("Creative Commons Attribution 4.0 International Public License", "CC-BY-4.0"),
        ("mitigation of risks", None),
        ("summit", None),
    ],
)
def test_names(text, name):
    assert name_in(text) == name
