// Sorts the rows by a column when its heading is pressed, and the other way when it is pressed again.
"use strict";
const headings = [...document.querySelectorAll("th")];
const body = document.querySelector("tbody");
for (const [column, heading] of headings.entries()) {
  const button = heading.querySelector("button");
  if (!button) continue;
  button.addEventListener("click", () => {
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of headings) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.sort;
    const order = (one, other) => {
      const [a, b] = [key(one), key(other)];
      // Rows without a value come last, whichever way the others go.
      if (a === "" || b === "") return (a === "") - (b === "");
      const by = heading.dataset.kind === "number" ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
      return down ? -by : by;
    };
    body.append(...[...body.rows].sort(order));
  });
}
