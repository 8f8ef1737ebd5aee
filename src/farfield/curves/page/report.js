// Sort the table by a column, and show only the runs whose name holds what is typed. Without scripts the page still reads.
const table = document.querySelector("table");
const body = table.tBodies[0];
for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
  const button = head.querySelector("button");
  if (!button) continue;
  button.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const numeric = head.classList.contains("n");
    const value = (row) => row.cells[column].dataset.v ?? "";
    const rows = [...body.rows].sort((a, b) => {
      const [u, v] = [value(a), value(b)];
      if (u === "" || v === "") return (u === "") - (v === ""); // no value: last, either way
      const order = numeric ? u - v : u.localeCompare(v, undefined, { numeric: true });
      return down ? -order : order;
    });
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
  });
}
document.querySelector("input[type=search]").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const item of document.querySelectorAll("[data-run]")) item.hidden = !item.dataset.run.toLowerCase().includes(wanted);
});
