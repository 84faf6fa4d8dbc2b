"""What an experiment is made of: cells to train, and which of them are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fastretina.experiments.reasons import Reason
from fastretina.recipe import Recipe

GIVEN = "given"  # the data set that was passed
REPORT = "the course report, best epoch chosen on test, one seed"

Adjust = Callable[[Recipe], Recipe]  # applies the budget and the user's flags


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One line of an experiment's table: a recipe, trained once for each seed.

    Attributes:
        name: names the run folders.
        title: heads the cell's line in tables and figures.
        recipe: what the runs are trained by, with the first seed.
        about: a sentence that is true of the cell whatever its result; may be empty.
        reasons: sentences on why its result is as it is, each with its condition.
        data: the variant of the data set to train on; see ``experiments.variants``.
        test: the variant to test on.
        derived: another cell, whose runs these are, with the class weights undone.
    """

    name: str
    title: str
    recipe: Recipe
    about: str = ""
    reasons: Sequence[Reason] = ()
    data: str = GIVEN
    test: str = GIVEN
    derived: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairing:
    """Two cells, by name, to be compared on the same test images."""

    first: str
    second: str
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentPlan:
    """An experiment before anything of it is trained.

    Attributes:
        name: ``table``, ``ablations`` or ``strong``.
        title: heads its table and page.
        about: what it is good for, a sentence or two.
        cells: in the order of the table.
        pairings: which cells are compared.
        varied: fields of the recipe that no flag may set, as the cells would no longer
            differ in them. Not those that a cell works out from the flag's own value,
            as image size and epochs.
        reference: what others have measured: title and accuracy.
        reference_about: who measured that, and how.
        overlays: groups of cells whose curves are drawn in one figure, by its title.
    """

    name: str
    title: str
    about: str
    cells: Sequence[Cell]
    pairings: Sequence[Pairing]
    varied: frozenset[str]
    reference: Sequence[tuple[str, float]] = ()
    reference_about: str = ""
    overlays: dict[str, Sequence[str]] = field(default_factory=dict)

    def cell(self, name: str) -> Cell:
        """The cell of that name."""
        return next(cell for cell in self.cells if cell.name == name)

    @property
    def trained(self) -> list[Cell]:
        """The cells that have runs of their own."""
        return [cell for cell in self.cells if cell.derived is None]

    @property
    def variants(self) -> list[str]:
        """The variants of the data set that its cells need, beside the given one."""
        named = {v for cell in self.cells for v in (cell.data, cell.test)}
        return sorted(named - {GIVEN})
