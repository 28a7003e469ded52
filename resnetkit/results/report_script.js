// Sorts tables by the column whose heading is pressed; without this script they stay in the order of the classes.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const order = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows].map((row) => [row.cells[column], row]);
      const compare = new Intl.Collator(undefined, { numeric: true }).compare;
      rows.sort(([a], [b]) =>
        sign * ("value" in a.dataset ? a.dataset.value - b.dataset.value : compare(a.textContent, b.textContent)));
      body.append(...rows.map(([, row]) => row));
    });
  });
}
