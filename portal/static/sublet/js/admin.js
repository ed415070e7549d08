// The stock admin's tabular inlines name their fields only by the column: say it on each field.

function nameFields(root) {
  for (const table of root.querySelectorAll(".tabular.inline-related table, #result_list")) {
    const heads = [...table.querySelectorAll("thead th")].filter((head) => !head.hidden);
    const name = (cell) => {
      const column = [...cell.classList].find((css) => css.startsWith("field-"))?.slice(6);
      const head = column && table.querySelector(`thead .column-${CSS.escape(column)}`);
      return (head ?? heads.at(-1))?.textContent.trim();
    };
    for (const field of table.querySelectorAll("tbody :is(input, select, textarea)")) {
      const labelled = field.type === "hidden" || field.labels?.length || field.ariaLabel || field.title;
      const cell = field.closest("td");
      if (!labelled && cell) field.ariaLabel = name(cell);
    }
  }
}

// The two-column chooser names its magnifying glass, which has no role to carry a name.
function giveRoles() {
  for (const icon of document.querySelectorAll("span[aria-label]:not([role])")) icon.setAttribute("role", "img");
}

nameFields(document);
addEventListener("load", () => requestAnimationFrame(giveRoles));
document.addEventListener("formset:added", (event) => nameFields(event.target.closest(".inline-group")));
