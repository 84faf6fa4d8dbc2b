"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const make = (name, text) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text; // never as HTML
    return element;
  };

  // What is missing comes last, whichever way is up.
  const compare = (one, other, up) => {
    const missing = (value) => value === null || Number.isNaN(value);
    if (missing(one) || missing(other)) return missing(one) - missing(other);
    const words = typeof one === "string";
    const sign = words ? one.localeCompare(other, "en", { numeric: true }) : one - other;
    return up ? sign : -sign;
  };

  // The heading that was clicked: another one begins with its own first direction.
  const turn = (heading, headings, first) => {
    const before = heading.getAttribute("aria-sort");
    const opposite = before === "ascending" ? "descending" : "ascending";
    for (const each of headings) each.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", before === "none" ? first : opposite);
    return heading.getAttribute("aria-sort") === "ascending";
  };

  // Tables that stand in the page: each cell of a sorted column has its data-value.
  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells].filter((cell) => cell.dataset.sort);
    for (const heading of headings) {
      const button = make("button", heading.textContent.trim());
      button.type = "button";
      heading.replaceChildren(button);
      heading.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const numbers = heading.dataset.sort === "number";
        const up = turn(heading, headings, numbers ? "descending" : "ascending");
        const value = (row) => {
          const text = row.cells[heading.cellIndex].dataset.value;
          if (text === undefined || text === "") return null;
          return numbers ? Number(text) : text;
        };
        const rows = [...table.tBodies[0].rows];
        rows.sort((one, other) => compare(value(one), value(other), up));
        table.tBodies[0].append(...rows);
      });
    }
  }

  // On paper, what is folded is needed.
  const details = document.querySelectorAll("details");
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...details].filter((each) => !each.open);
    for (const each of folded) each.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const each of folded) each.open = false;
  });

  const data = find("sample-data");
  if (!data) return;
  const { eyes, grades, referable, rows } = JSON.parse(data.textContent);
  const samples = rows.map(([key, patient, eye, truth, predicted, ...chances]) => ({
    key,
    patient: patient === 0 ? key.slice(0, -1 - eyes[eye].length) : patient,
    eye: eyes[eye],
    true: truth,
    predicted,
    probability: chances[predicted],
    off: Math.abs(truth - predicted),
    referable: chances.slice(referable).reduce((sum, chance) => sum + chance, 0),
    chances,
  }));
  for (const sample of samples) {
    sample.words = `${sample.key} ${sample.patient}`.toLowerCase();
  }
  const FIRST = { probability: "descending", off: "descending", referable: "descending" };
  const PER_PAGE = 25;
  const table = find("photographs");
  const headings = [...table.tHead.rows[0].cells].filter((c) => c.hasAttribute("aria-sort"));
  let chosen = samples;
  let page = 0;

  const percent = (thousandths) => `${(thousandths / 10).toFixed(1)}%`;

  const bar = (chances) => {
    const shares = make("div");
    shares.className = "shares";
    shares.setAttribute("role", "img");
    const text = chances.map((chance, grade) => `${grade}: ${percent(chance)}`).join(", ");
    shares.setAttribute("aria-label", text);
    shares.title = text;
    chances.forEach((chance, grade) => {
      const part = make("span");
      part.className = `g${grade}`;
      part.style.width = `${chance / 10}%`;
      shares.append(part);
    });
    return shares;
  };

  const line = (sample) => {
    const row = make("tr");
    const predicted = make("td", grades[sample.predicted]);
    if (sample.off) predicted.className = "wrong";
    const cells = [
      make("td", sample.key),
      make("td", grades[sample.true]),
      predicted,
      make("td", percent(sample.probability)),
      make("td", sample.off),
      make("td", percent(sample.referable)),
    ];
    for (const cell of cells.slice(3)) cell.className = "number";
    const shares = make("td");
    shares.append(bar(sample.chances));
    const patient = make("td", sample.patient);
    cells[0].title = sample.key;
    patient.title = sample.patient;
    row.append(...cells, shares, patient, make("td", sample.eye || "-"));
    return row;
  };

  const show = () => {
    const pages = Math.max(Math.ceil(chosen.length / PER_PAGE), 1);
    page = Math.min(Math.max(page, 0), pages - 1);
    const first = page * PER_PAGE;
    const here = chosen.slice(first, first + PER_PAGE);
    table.tBodies[0].replaceChildren(...here.map(line));
    const count = (number) => number.toLocaleString("en");
    const places = here.length ? `, ${count(first + 1)} to ${count(first + here.length)} here` : "";
    find("shown").textContent =
      `${count(chosen.length)} of ${count(samples.length)} photographs${places}`;
    find("page-number").textContent = `page ${count(page + 1)} of ${count(pages)}`;
    find("page-before").disabled = page === 0;
    find("page-after").disabled = page === pages - 1;
  };

  const choose = () => {
    const words = find("filter-text").value.trim().toLowerCase();
    const truth = find("filter-true").value;
    const predicted = find("filter-predicted").value;
    const wrong = find("filter-wrong").checked;
    chosen = samples.filter(
      (sample) =>
        sample.words.includes(words) &&
        (truth === "" || sample.true === Number(truth)) &&
        (predicted === "" || sample.predicted === Number(predicted)) &&
        (!wrong || sample.off > 0),
    );
    page = 0;
    show();
  };

  for (const heading of headings) {
    const button = heading.querySelector("button");
    const column = button.dataset.column;
    button.addEventListener("click", () => {
      const up = turn(heading, headings, FIRST[column] || "ascending");
      samples.sort((one, other) => compare(one[column], other[column], up));
      choose();
    });
  }
  const form = document.querySelector(".filters");
  for (const event of ["input", "change"]) form.addEventListener(event, choose);
  form.addEventListener("submit", (event) => event.preventDefault());
  find("filter-reset").addEventListener("click", () => {
    form.reset();
    choose();
  });
  const move = (pages) => () => {
    page += pages;
    show();
  };
  find("page-before").addEventListener("click", move(-1));
  find("page-after").addEventListener("click", move(1));
  find("browser").hidden = false;
  choose();
})();
