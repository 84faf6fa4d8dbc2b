"""Files of strangers: nothing that they hold is run, and none leads elsewhere."""

from __future__ import annotations

import ast
import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastretina.predict.table import as_csv
from loaders.formulas import guarded, unguarded

ROOT = Path(__file__).parents[1]

# --- what our own source calls -------------------------------------------------------

# Calls that run what they are given. ``eval`` as a method is torch's, of a network.
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "pty.spawn"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "np.load", "numpy.load"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "shelve.open"),
    *("marshal.loads", "dill.load", "dill.loads", "cloudpickle.load", "joblib.load"),
    *("cloudpickle.loads", "yaml.load", "yaml.full_load", "yaml.unsafe_load"),
    *("torch.hub.load", "torch.jit.load", "torch.package.PackageImporter"),
    *("pd.read_pickle", "pandas.read_pickle", "pq.read_pandas", "cv2.FileStorage"),
}
KNOWN = {
    # What the GPU check has written itself, in a folder that nobody hands to it.
    ("bench/gpu/check_state.py", "pickle.loads"),
}


def sources() -> Iterator[Path]:
    for folder in ("fastretina", "loaders", "bench", "scripts", ".ci"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def named(function: ast.expr) -> str:
    """A called function's dotted name, e.g. ``os.system``; empty for others."""
    if isinstance(function, ast.Name):
        return function.id
    if isinstance(function, ast.Attribute):
        owner = named(function.value)
        return f"{owner}.{function.attr}" if owner else ""
    return ""


def imported(tree: ast.Module) -> dict[str, str]:
    """What a module calls each thing that it takes from another: ``from os import``."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def dangers(text: str) -> set[str]:
    """The calls in a source text that run what they are given, or ask a shell to."""
    tree, found = ast.parse(text), set()
    names = imported(tree)
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        name = named(call.func)
        name = names.get(name, name)
        given = {each.arg: ast.unparse(each.value) for each in call.keywords}
        if name in FORBIDDEN:
            found.add(name)
        if given.get("shell", "False") != "False" or "allow_pickle" in given:
            found.add(f"{name} by a shell or pickle")
        if name == "torch.load" and given.get("weights_only") != "True":
            found.add(name)
    return found


def test_our_source_runs_nothing_that_a_file_holds() -> None:
    found = {
        (str(path.relative_to(ROOT)), danger)
        for path in sources()
        for danger in dangers(path.read_text())
    }
    assert found == KNOWN


@pytest.mark.parametrize(
    "text",
    [
        "import os; os.system(x)",
        "from os import system as run; run(x)",
        "import subprocess; subprocess.run(x, shell=True)",
        "subprocess.Popen(x, shell=not False)",
        "pickle.load(file)",
        "from pickle import loads; loads(x)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "np.load(x)",
        "yaml.load(x)",
        "eval(x)",
    ],
)
def test_such_calls_are_found(text: str) -> None:
    assert dangers(text)


def test_other_calls_are_none() -> None:
    text = "network.eval(); subprocess.run(['a'], shell=False); re.compile(x)"
    assert not dangers(f"{text}; torch.load(x, weights_only=True); json.loads(x)")


# --- formulas ------------------------------------------------------------------------

NAMES = st.text(alphabet=st.sampled_from("'=+-@\t\r\nax\""), max_size=6) | st.text()


@given(NAMES)
def test_guarded_text_begins_no_formula_and_can_be_read_back(text: str) -> None:
    cell = guarded(text)
    assert cell[:1] not in tuple("=+-@\t\r")
    assert unguarded(cell) == text


@given(NAMES, NAMES)
def test_guarded_texts_stay_apart(one: str, other: str) -> None:
    assert (guarded(one) == guarded(other)) == (one == other)


def test_predictions_in_a_csv_hold_no_formula_and_numbers_stay() -> None:
    row = {"image": "=1+1", "grade": 2, "p0": -0.5, "error": "@x", "fellow": None}
    ordinary = {**row, "image": "10_left.jpeg", "error": "it's - so"}
    cells = list(csv.DictReader(io.StringIO(as_csv([row, ordinary]))))
    assert cells[0].pop("p0") == "-0.5"
    assert cells[0] == {"image": "'=1+1", "grade": "2", "error": "'@x", "fellow": ""}
    assert cells[1]["image"] == "10_left.jpeg"
    assert cells[1]["error"] == "it's - so"
