"""What is made of a finished run while the power is cut: pages, grades, a network."""

from __future__ import annotations

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from torture.campaign import Fault, Skip
from torture.disk import Content, put_down
from torture.power_runs import compare, quietly
from torture.power_training import make_shards, run_again, small_words


class Reporting:
    """A run's page, its figures and its model card, in place of older ones."""

    name = "pages"
    in_place = re.compile("$^")
    seldom = 1 << 30

    def prepare(self, shared: Path, disk: Path) -> list[str]:
        from reported_runs import made_up_run

        from fastretina.report.command import main

        run = made_up_run(disk / "run")
        quietly(main, run, "--mistakes", 5)
        (run / "figures" / "roc.png").write_bytes(b"an older one")
        return [sys.executable, "-m", "fastretina.report", str(run), "--mistakes", "3"]

    def check(self, disk: Path, content: Content, whole: Content) -> None:
        pass  # each of its files stands alone

    def again(self, shared: Path, disk: Path, scratch: Path, whole: Content) -> None:
        pass


class Evaluating:
    """A run's evaluation and its predictions, in place of older ones."""

    name = "evaluations"
    in_place = re.compile("$^")
    seldom = 8

    def prepare(self, shared: Path, disk: Path) -> list[str]:
        from reported_runs import run_on

        run = run_on(make_shards(shared), disk / "run")
        (run / "evaluation.json").write_text('{"split": "train"}\n')
        return self._words(disk)

    def _words(self, disk: Path) -> list[str]:
        more = ["--device", "cpu", "--loader", "turbo", "--workers", 1]
        out = ["--out", disk / "chances.parquet"]
        return small_words("evaluate", disk / "run", *out, *more)

    def check(self, disk: Path, content: Content, whole: Content) -> None:
        from fastretina.metrics.predictions import Predictions

        chances = disk / "chances.parquet"
        if chances.exists():
            Predictions.load(chances)
        details = json.loads((disk / "run" / "evaluation.json").read_text())
        if details["split"] == "test" and not chances.exists():
            raise Fault("the evaluation is there, and its predictions are not")

    def again(self, shared: Path, disk: Path, scratch: Path, whole: Content) -> None:
        run_again(self._words(disk))
        compare(disk, whole, "run/evaluation.json")
        put_down(whole, scratch)
        now, then = (
            json.loads((each / "run" / "evaluation.json").read_text())
            for each in (disk, scratch)
        )
        for name, value in then.items():
            if name not in ("run", "shards") and now.get(name) != value:
                raise Fault(f"the same command ends with other {name}")


class Exporting:
    """A run's network as ONNX, in place of an older one."""

    name = "exported networks"
    in_place = re.compile("$^")
    seldom = 4

    def prepare(self, shared: Path, disk: Path) -> list[str]:
        from reported_runs import run_on

        if not all(map(find_spec, ("onnx", "onnxruntime", "onnxscript"))):
            raise Skip("nothing here writes ONNX")
        run = run_on(make_shards(shared), disk / "run")
        (run / "model.onnx").write_bytes(b"an older one")
        return small_words("export", run)

    def check(self, disk: Path, content: Content, whole: Content) -> None:
        if "run/model.onnx" not in content:
            raise Fault("neither the old network is there nor the new one")

    def again(self, shared: Path, disk: Path, scratch: Path, whole: Content) -> None:
        run_again(small_words("export", disk / "run"))
        compare(disk, whole)


class Predicting:
    """Grades of photographs as a table, by both eyes, and a picture of each."""

    name = "grades"
    in_place = re.compile("$^")
    seldom = 8

    def prepare(self, shared: Path, disk: Path) -> list[str]:
        from conftest import course_folder
        from reported_runs import predicted, run_on

        from fastretina.run import Run

        run = run_on(make_shards(shared), shared / "run")
        sha256 = Run(run).result().weights_sha256
        assert sha256 is not None
        predicted(120, 2, sha256=sha256).save(run / "validation.parquet")
        course_folder(shared / "photographs", 4, 2)
        (disk / "grades.csv").write_text("an older one")
        return self._words(shared, disk)

    def _words(self, shared: Path, disk: Path) -> list[str]:
        places = ["--overlays", disk / "overlays", "--out", disk / "grades.csv"]
        found = [shared / "run", shared / "photographs" / "data"]
        return small_words("predict", *found, "--pairs", "--device", "cpu", *places)

    def check(self, disk: Path, content: Content, whole: Content) -> None:
        if content.get("grades.csv") == b"an older one":
            return
        for path, data in whole.items():
            if content.get(path) != data:
                raise Fault(f"the table is there, and {path} is not of its set")

    def again(self, shared: Path, disk: Path, scratch: Path, whole: Content) -> None:
        run_again(self._words(shared, disk))
        compare(disk, whole)


class Examining:
    """The doctor's chart, and the loader that it remembers where nobody was busy."""

    name = "charts"
    in_place = re.compile("$^")
    seldom = 1 << 30  # it measures anew

    def prepare(self, shared: Path, disk: Path) -> list[str]:
        words = ["-m", "fastretina.doctor", "--shards", str(make_shards(shared))]
        words += ["--seconds", "2", "--device", "cpu", "--batch-size", "4"]
        words += ["--out", str(disk / "chart.png")]
        (disk / "chart.png").write_bytes(b"an older one")
        places = [f"XDG_CACHE_HOME={disk / 'cache'}", f"MPLCONFIGDIR={shared}"]
        return ["env", *places, sys.executable, *words]

    def check(self, disk: Path, content: Content, whole: Content) -> None:
        if "chart.png" not in content:
            raise Fault("neither the old chart is there nor the new one")

    def again(self, shared: Path, disk: Path, scratch: Path, whole: Content) -> None:
        pass
