"""What an experiment is made of: cells to train, and which of them are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fastretina.recipe import Recipe

GIVEN = "given"  # the data set that was passed
REPORT = "the course report, best epoch chosen on test, one seed"

Adjust = Callable[[Recipe], Recipe]  # by the budget and by the user's flags


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One line of an experiment's table: a recipe, trained once for each seed.

    Attributes:
        name: of its run folders.
        title: for people.
        why: a sentence on what it shows.
        recipe: of its runs, with the first seed.
        data: the variant of the data set to train on; see ``experiment.variants``.
        test: the variant to test on.
        derived: another cell, whose runs these are, with the class weights undone.
    """

    name: str
    title: str
    why: str
    recipe: Recipe
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
class Plan:
    """An experiment.

    Attributes:
        name: ``table``, ``ablations`` or ``strong``.
        title: for people.
        about: what it is good for, a sentence or two.
        cells: in the order of the table.
        pairings: what is compared.
        varied: fields of the recipe that its cells set themselves.
        reference: what others have found: title and accuracy.
        reference_about: who they are.
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
        """The variants of the data set that they need, but the given one."""
        named = {v for cell in self.cells for v in (cell.data, cell.test)}
        return sorted(named - {GIVEN})
