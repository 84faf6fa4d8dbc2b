"""How long training will take here: the forecast from what the doctor measured."""

from __future__ import annotations

from fastretina.doctor.measurements import Measurements
from fastretina.measure.forecast import Forecast, forecast
from fastretina.recipe import PHASES, Recipe


def forecast_run(measurements: Measurements, recipe: Recipe) -> Forecast | None:
    """The forecast of a recipe on the data set; None where nothing was loaded."""
    data = measurements.data
    if data is None or measurements.loading is None:
        return None
    speeds = {phase: measurements.training_speed(phase) for phase in PHASES}
    # A step of the head is a forward pass and little more, as evaluation is.
    return forecast(recipe, data.train, data.test, speeds, speeds["head"])
