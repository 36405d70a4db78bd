"""Personal data in the published data sets: what the documentation promises is held here."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
DATA = ROOT.parent / "shared" / "data"
if not DATA.is_dir():
    import os

    DATA = Path(os.environ.get("TUNEWRIGHT_DATA", DATA))
sys.path.insert(0, str(ROOT / "benchmarks"))

import personal_data as measured  # noqa: E402

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not at ../shared/data"),
]


@pytest.fixture(scope="module")
def rows():
    return list(measured.messy(DATA))


@pytest.mark.parametrize("names", ["cues", "full"])
def test_messy_rows_lose_their_personal_data_and_nothing_else(rows, names):
    table = measured.scores([item for _, item in rows], names)
    for kinds in (measured.STRUCTURED, (*measured.STRUCTURED, "STREET_ADDRESS")):
        whole = measured.together(table, kinds)
        assert whole.recall >= 0.98 and whole.precision >= 0.97, whole
    assert table["PERSON"].recall >= 0.85 and table["PERSON"].precision >= 0.85
    traps = measured.false_hits([item for kind, item in rows if kind == "pii_trap"], names)
    assert traps[:2] == (50, 0.0)
    clean = measured.false_hits([item for kind, item in rows if kind == "clean"], names)
    assert clean[0] == 919 and clean[1] <= 3


def test_the_types_of_the_presidio_set():
    table = measured.scores(measured.presidio(DATA))
    for kind in ("EMAIL", "CREDIT_CARD", "IBAN", "US_SSN", "IP_ADDRESS"):
        assert table[kind].recall >= 0.97, (kind, table[kind])
    # the aim is 0.97 here too: what is left looks like amounts, behind words that say nothing of a phone
    assert table["PHONE"].recall >= 0.95 and table["PHONE"].precision >= 0.97
    assert table["PHONE"].asked >= 0.98 * table["PHONE"].values
    assert table["PERSON"].recall >= 0.85 and table["PERSON"].asked >= 0.89 * table["PERSON"].values
    assert table["PERSON"].precision >= 0.85


def test_a_row_costs_little():
    rows = measured.medquad(DATA)
    assert measured.cost(rows[:400], "off") < 240  # microseconds for 1 kB; three times what is usual
    assert measured.cost(rows[:400], "cues") < 600
    assert 1e6 / measured.cost(rows[:60], "full") >= 50  # rows of 1 kB a second
