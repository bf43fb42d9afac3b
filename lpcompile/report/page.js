"use strict";
// Columns sort by their cells: by data-value where there is one, numbers before texts, what is missing last.
const valueOf = (row, column) => {
  const cell = row.cells[column];
  const given = cell.dataset.value ?? cell.textContent.trim();
  const number = Number(given);
  return { missing: given === "", number: given !== "" && !Number.isNaN(number) ? number : null, text: given };
};
const compare = (a, b) => {
  if (a.missing || b.missing) return a.missing - b.missing;
  if (a.number !== null && b.number !== null) return a.number - b.number;
  if (a.number !== null || b.number !== null) return a.number !== null ? -1 : 1;
  return a.text.localeCompare(b.text);
};
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th");
    const body = header.closest("table").tBodies[0];
    const column = header.cellIndex;
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].map((row, place) => ({ row, place, value: valueOf(row, column) }));
    rows.sort((a, b) => {
      const order = compare(a.value, b.value);
      const turned = a.value.missing || b.value.missing ? order : down ? -order : order;
      return turned || a.place - b.place;
    });
    body.append(...rows.map((r) => r.row));
  });
}
for (const link of document.querySelectorAll("[data-open-all]")) {
  link.addEventListener("click", () => {
    const all = [...link.closest("section").querySelectorAll("details")];
    const open = all.some((d) => !d.open);
    for (const d of all) d.open = open;
  });
}
