// What every page does: the theme without a reload, menus that close, the browser's time zone.

class ThemeSwitch extends HTMLElement {
  connectedCallback() {
    this.addEventListener("submit", (event) => {
      const button = event.submitter;
      if (!button || button.name !== "theme") return;
      event.preventDefault();
      const form = event.target;
      const body = new FormData(form, button);
      document.querySelector('meta[name="color-scheme"]').content =
        button.value === "system" ? "light dark" : button.value;
      for (const other of document.querySelectorAll('theme-switch button[name="theme"]')) {
        other.setAttribute("aria-pressed", String(other.value === button.value));
      }
      fetch(form.action, { method: "POST", body, headers: { Accept: "application/json" } })
        .then((response) => {
          if (!response.ok) form.submit();
        })
        .catch(() => {});
    });
  }
}
customElements.define("theme-switch", ThemeSwitch);

// Pointing at a time shows it in UTC; this does so for all of them, by touch and keyboard too.
class UtcSwitch extends HTMLElement {
  connectedCallback() {
    this.hidden = false;
    const button = this.querySelector("button");
    button.addEventListener("click", () => {
      for (const time of document.querySelectorAll("time[title]")) {
        const shown = time.textContent;
        time.textContent = time.title;
        time.title = shown;
      }
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    });
  }
}
customElements.define("utc-switch", UtcSwitch);

// Menus are <details>: they open without a script, and close like menus with one.
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.sb-menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = document.activeElement?.closest("details.sb-menu[open]");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

// Regions that scroll can be reached by keyboard only while there is something to scroll.
const scrollable = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const overflows =
      target.scrollWidth > target.clientWidth + 1 || target.scrollHeight > target.clientHeight + 1;
    if (overflows) target.setAttribute("tabindex", "0");
    else target.removeAttribute("tabindex");
  }
});
function watchRegions(root) {
  for (const region of root.querySelectorAll(".sb-table-region, .sb-heat-region")) scrollable.observe(region);
}
watchRegions(document);
document.addEventListener("htmx:load", (event) => watchRegions(event.target));

// Before sign-in the server knows the zone only from here.
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
if (zone && !document.cookie.includes(`sublet_zone=${encodeURIComponent(zone)}`)) {
  document.cookie = `sublet_zone=${encodeURIComponent(zone)}; path=/; max-age=31536000; samesite=lax`;
}
