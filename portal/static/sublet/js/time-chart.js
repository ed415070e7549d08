// <time-chart>: reads out the nearest point of a server-drawn chart under the pointer or by arrow keys.
// The points are in <script type="application/json">; the same numbers are in the chart's table.

class TimeChart extends HTMLElement {
  connectedCallback() {
    this.plot = this.querySelector("[data-part='plot']");
    this.tip = this.querySelector("[data-part='tip']");
    this.line = this.querySelector("[data-part='line']");
    const data = this.querySelector("script[type='application/json']");
    if (!this.plot || !this.tip || !data) return;
    this.points = JSON.parse(data.textContent);
    if (!this.points.length) return;
    this.index = -1;
    this.dots = [];
    this.plot.addEventListener("pointermove", (event) => this.follow(event));
    this.plot.addEventListener("pointerdown", (event) => this.follow(event));
    this.plot.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") this.hide();
    });
    this.plot.addEventListener("focus", () => {
      if (this.index < 0 && this.plot.matches(":focus-visible")) this.show(this.points.length - 1);
    });
    this.plot.addEventListener("blur", () => this.hide());
    this.plot.addEventListener("keydown", (event) => this.step(event));
  }

  follow(event) {
    const box = this.plot.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * 100;
    let best = 0;
    for (let i = 1; i < this.points.length; i += 1) {
      if (Math.abs(this.points[i].x - x) < Math.abs(this.points[best].x - x)) best = i;
    }
    this.show(best);
  }

  step(event) {
    const last = this.points.length - 1;
    const next = {
      ArrowLeft: Math.max(0, this.index - 1),
      ArrowRight: Math.min(last, this.index + 1),
      Home: 0,
      End: last,
    }[event.key];
    if (event.key === "Escape") this.hide();
    if (next === undefined) return;
    event.preventDefault();
    this.show(next);
  }

  show(index) {
    if (index === this.index) return;
    this.index = index;
    const point = this.points[index];
    this.tip.textContent = point.text;
    this.tip.hidden = false;
    this.line.hidden = false;
    this.line.style.insetInlineStart = `${point.x}%`;
    // Keep the tip inside the plot: it slides from its left to its right edge as the point does.
    this.tip.style.insetInlineStart = `${point.x}%`;
    this.tip.style.translate = `${-Math.min(100, Math.max(0, point.x))}% 0`;
    point.y.forEach((y, i) => {
      if (!this.dots[i]) {
        this.dots[i] = document.createElement("span");
        this.dots[i].className = `sb-chart__dot sb-series-${i + 1}`;
        this.plot.append(this.dots[i]);
      }
      this.dots[i].hidden = y === null;
      this.dots[i].style.insetInlineStart = `${point.x}%`;
      this.dots[i].style.insetBlockStart = `${y}%`;
    });
  }

  hide() {
    this.index = -1;
    this.tip.hidden = true;
    this.line.hidden = true;
    for (const dot of this.dots) dot.hidden = true;
  }
}
customElements.define("time-chart", TimeChart);
