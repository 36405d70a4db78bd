"""Tokens at once and layers computed twice, chosen by the memory there is."""

import pytest

from tests.contract.small import chats, save_small_model, small_values, write_rows
from tests.tiny import FAMILIES, tiny_model, tiny_tokenizer
from tunewright.core import events
from tunewright.engine.footprint import total
from tunewright.run import memory_plan, sizing
from tunewright.run.memory_plan import MB, Case
from tunewright.run.memory_rough import FIXED, rough
from tunewright.run.ready import make_ready
from tunewright.run.resolve import resolve
from tunewright.run.rows import prepare_rows
from tunewright.run.session import Session
from tunewright.run.sizing import LAYERS, MICRO, Sizes, search
from tunewright.run.train import settled

LARGE = {"hidden_size": 256, "intermediate_size": 700}


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """A recipe whose model is large enough that tokens can be seen in what it needs."""
    folder = tmp_path_factory.mktemp("sizing")
    model = save_small_model(folder / "model", num_hidden_layers=4, **LARGE)
    rows = write_rows(folder / "rows.jsonl", chats(90))
    return small_values(model, rows, folder / "run") | {"train.tokens_per_step": 2048}


@pytest.fixture(scope="module", autouse=True)
def program():
    """The process that runs the tests grows from one to the next; here it is as large in all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_plan, "resident_mb", lambda device: 500.0)
        yield


def ready(values, room=None):
    """The session once everything is pinned, its events, and the parts."""
    seen = []
    resolved, run = settled(resolve(None, None, values))
    session = Session(resolved, run, seen.append)
    found = make_ready(session, prepare_rows(session.recipe), room=room)
    return session, seen, found


def chosen(session):
    train = session.recipe.train
    return Sizes(train.micro_tokens, train.memory.checkpoint_layers)


def said(seen, kind):
    """The words of all notes or warnings, or the details of all forecasts."""
    if kind is events.Warned:
        return [event.message for event in seen if isinstance(event, kind)]
    return [event.detail for event in seen if isinstance(event, events.Stage) and event.name == kind]


@pytest.fixture(scope="module")
def needs(values):
    """Bytes that a run needs, by (tokens, layers), as the plan has it."""
    session, _, found = ready(values)
    case = Case.of(session.recipe, found.parts, found.sequences)
    sizes = [Sizes(tokens, layers) for tokens in (256, 512, 1024, 2048) for layers in (0, 2, 4)]
    pinned = {s: session.resolved.pin(MICRO, s.tokens, "").pin(LAYERS, s.layers, "").recipe for s in sizes}
    adapter = found.parts.adapter
    return {s: case.program + total(case.training(recipe, adapter)) for s, recipe in pinned.items()}


def room(need, other):
    """MB with which a run of ``need`` bytes fits, and one of ``other`` does not."""
    assert need < other
    return (need + other) / 2 / MB / sizing.SHARE["cpu"]


def test_where_memory_is_plenty_speed_decides_and_nothing_is_rehearsed(values, monkeypatch):
    monkeypatch.setattr(Case, "training", lambda *args: pytest.fail("rehearsed"))
    session, seen, _ = ready(values)
    assert chosen(session) == (2048, 0)
    assert session.resolved.sources[MICRO] == "auto: the fastest on a CPU"
    [line] = [text for text in said(seen, "note") if text.startswith(MICRO)]
    assert line == "train.micro_tokens: 2048 tokens at once, the fastest on a CPU"


def test_fewer_tokens_where_memory_is_short(values, needs):
    session, seen, _ = ready(values, room(needs[512, 0], needs[1024, 0]))
    assert chosen(session) == (512, 0)
    assert said(seen, "forecast memory")[0] == "2048 tokens at once, 0 layers computed twice"
    assert "train.micro_tokens: 512 tokens at once, as many as fit" in said(seen, "note")


def test_layers_are_computed_twice_where_the_fewest_tokens_do_not_fit(values, needs):
    session, seen, _ = ready(values, room(needs[256, 2], needs[256, 0]))
    assert chosen(session).tokens == 256 and chosen(session).layers in (1, 2)
    [line] = [text for text in said(seen, "note") if text.startswith(LAYERS)]
    assert line.endswith("memory is short: with fewer, 256 tokens at once would not fit")


def test_where_nothing_fits_it_is_said(values):
    session, seen, _ = ready(values, 100.0)
    assert chosen(session) == (256, 4)
    [warning] = [text for text in said(seen, events.Warned) if text.startswith("memory may run out")]
    assert "train.micro_tokens 256 and train.memory.checkpoint_layers 4, and 100 MB are there" in warning


def test_what_the_user_gives_stays(values, needs):
    tight = room(needs[256, 2], needs[256, 0])
    session, _, _ = ready(values | {MICRO: 1000, LAYERS: 3}, 100.0)
    assert chosen(session) == (1000, 3)
    assert session.resolved.sources[MICRO] == session.resolved.sources[LAYERS] == "command line"
    assert chosen(ready(values | {LAYERS: 0}, tight)[0]) == (256, 0)
    assert chosen(ready(values | {MICRO: 1024}, room(needs[1024, 4], needs[1024, 0]))[0]).tokens == 1024
    assert chosen(ready(values | {MICRO: 1024}, room(needs[1024, 4], needs[1024, 0]))[0]).layers > 0


def test_a_gpu_takes_a_whole_update_if_it_fits(values, monkeypatch):
    """The choice of numbers; there is no GPU here."""
    session, _, found = ready(values)
    forecast = sizing._Forecast(session, found.parts, found.sequences, 100.0)
    forecast.device = "cuda"
    assert forecast.fastest() == ([2048, 1024, 512], "a whole update")
    monkeypatch.setattr(found.parts.objective, "rows_per_step", 64, raising=False)
    [*_, least], _ = forecast.fastest()
    assert least >= 512


def test_what_is_sampled_while_it_trains_goes_by_the_formula(values, monkeypatch):
    monkeypatch.setattr(Case, "training", lambda *args: pytest.fail("rehearsed"))
    values = values | {"objective": "grpo", "objective.rewards": [{"name": "length", "most": 20}]}
    values["evaluate.metrics"] = ["reward"]
    session, _, found = ready(values)
    assert chosen(session) == (2048, 0)
    case = Case.of(session.recipe, found.parts, found.sequences)
    train = found.sequences.train
    least, most = (case.program + rough(found.parts, "lora", train, n) for n in (256, 1024))
    session, _, _ = ready(values, room(least, most))
    assert 256 <= chosen(session).tokens <= 512 and chosen(session).layers == 0


def test_the_search_asks_seldom():
    tokens, layers = [4096, 2048, 1024, 512], [0, 4, 8, 12, 16]

    def found(limit):
        asked = set()

        def fits(size, count):
            asked.add((size, count))
            return size * (20 - count) <= limit

        return search(tokens, layers, fits), len(asked)

    assert found(2**20) == (Sizes(4096, 0), 1)
    assert found(2048 * 20) == (Sizes(2048, 0), 4)
    assert found(512 * 12) == (Sizes(512, 8), 6)
    assert found(1024 * 8)[0] == Sizes(512, 4)
    assert found(1024 * 4 - 1)[0] == Sizes(512, 16)
    assert found(512 * 4 - 1)[0] is None


METHODS = ["lora", "full", "freeze", "dora", "qlora", "bottleneck", "prompt", "vera", "loha", "ia3"]


def compared(model, values, method, tokens):
    """(rehearsed, by the formula without what it adds for any run) bytes."""
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    values = {k: v for k, v in values.items() if k != "adapt.rank"}
    values |= {"model.name": str(model), "adapt.method": method, MICRO: tokens, LAYERS: 0}
    session, _, found = ready(values)
    case = Case.of(session.recipe, found.parts, found.sequences)
    need = total(case.training(session.recipe, found.parts.adapter)) - 120 * MB
    return need, rough(found.parts, method, found.sequences.train, tokens) - FIXED


@pytest.mark.parametrize("method", METHODS)
def test_the_formula_is_above_every_rehearsal_of_a_method(values, method):
    need, formula = compared(values["model.name"], values, method, 1024)
    assert need < formula < 12 * need


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "llama"])
def test_the_formula_is_above_every_rehearsal_of_a_family(values, tmp_path, family):
    model = tiny_model(family, **LARGE)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    for method in ("lora", "full"):
        need, formula = compared(tmp_path, values, method, 1024)
        assert need < formula < 12 * need
