for (const table of document.querySelectorAll("table.sortable")) {
  for (const head of table.tHead.rows[table.tHead.rows.length - 1].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falling = head.ariaSort === "ascending" || (head.ariaSort !== "descending" && head.dataset.first !== "ascending");
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const key = (row) => row.cells[head.cellIndex]?.dataset.v;
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
        const rising = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return falling ? -rising : rising;
      };
      for (const body of table.tBodies) body.append(...[...body.rows].filter((row) => !row.dataset.fixed).sort(order));
    });
  }
}
