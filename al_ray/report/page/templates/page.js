(() => {
  "use strict";
  const root = document.documentElement;
  root.classList.add("js");
  const lines = (at) => document.querySelectorAll(`.charts [data-m="${at}"]`);

  document.querySelectorAll(".legend input").forEach((box) => {
    const show = () => lines(box.dataset.m).forEach((line) => {
      line.classList.toggle("on", box.checked);
      line.classList.toggle("off", !box.checked);
    });
    box.addEventListener("change", show);
    show();
  });

  const heat = (event, hot) => {
    const line = event.target.closest(".charts .line[data-m]");
    if (line) lines(line.dataset.m).forEach((one) => one.classList.toggle("hot", hot));
  };
  document.addEventListener("pointerover", (event) => heat(event, true));
  document.addEventListener("pointerout", (event) => heat(event, false));

  const number = (cell) => {
    const text = (cell.dataset.v ?? cell.textContent).replace("−", "-").replace(/,/g, "").replace("<", "");
    return Number.parseFloat(text);
  };
  const compare = (a, b) => {
    const x = number(a), y = number(b);
    if (Number.isNaN(x) && Number.isNaN(y)) return a.textContent.localeCompare(b.textContent);
    if (Number.isNaN(x) || Number.isNaN(y)) return 0;
    return x - y;
  };
  const sort = (table, column, sign) => {
    const body = table.tBodies[0], numeric = table.tHead.rows[0].cells[column].classList.contains("num");
    const unknown = (row) => numeric && Number.isNaN(number(row.cells[column]));
    const rows = [...body.rows].sort((a, b) =>
      unknown(a) - unknown(b) || sign * (numeric ? compare(a.cells[column], b.cells[column])
        : a.cells[column].textContent.localeCompare(b.cells[column].textContent)));
    body.append(...rows);
  };
  document.querySelectorAll("table.sortable").forEach((table) => {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "descending";
        const next = down ? "ascending" : head.getAttribute("aria-sort") === "ascending" ? "descending"
          : head.classList.contains("num") ? "descending" : "ascending";
        [...table.tHead.rows[0].cells].forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", next);
        sort(table, column, next === "ascending" ? 1 : -1);
      });
    });
  });

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((one) => { one.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((one) => { one.open = false; }));
})();
