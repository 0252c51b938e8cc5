// A heading of a table that can be sorted is a button; pressed again it turns the order round.
const collator = new Intl.Collator(undefined, {numeric: true});
const number = (text) => (text.trim() ? Number(text.replace(/,/g, "")) : NaN);
function compare(one, other) {
  const difference = number(one) - number(other);
  return Number.isNaN(difference) ? collator.compare(one, other) : difference;
}
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.onclick = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const text = (row) => row.cells[column].textContent;
      const rows = [...body.rows].sort((one, other) => compare(text(one), text(other)));
      body.append(...(up ? rows : rows.reverse()));
    };
  });
}
