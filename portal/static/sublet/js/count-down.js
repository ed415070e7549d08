// <count-down until="…Z">: the time left of a quote. It speaks at 10, 5, 2 and 1 minutes, 30 seconds
// and the end, and then fires "count-down:over" so that a page can react.

const MOMENTS = [600, 300, 120, 60, 30];

class CountDown extends HTMLElement {
  connectedCallback() {
    this.until = Date.parse(this.getAttribute("until"));
    this.clock = this.querySelector("[data-part='clock']");
    this.status = this.querySelector("[data-part='status']");
    if (Number.isNaN(this.until) || !this.clock) return;
    this.exact = this.clock.textContent.trim();
    this.last = Infinity;
    this.tick();
  }

  disconnectedCallback() {
    clearTimeout(this.timer);
  }

  tick() {
    const left = Math.ceil((this.until - Date.now()) / 1000);
    if (left <= 0) {
      this.finish();
      return;
    }
    const hours = Math.floor(left / 3600);
    const minutes = Math.floor((left % 3600) / 60);
    const seconds = String(left % 60).padStart(2, "0");
    this.clock.textContent = hours
      ? `${hours}:${String(minutes).padStart(2, "0")}:${seconds}`
      : `${minutes}:${seconds}`;
    this.clock.title = this.exact;
    this.dataset.phase = left <= 120 ? "soon" : "running";
    const moment = MOMENTS.find((at) => left <= at && this.last > at);
    if (moment && this.last !== Infinity) this.say(moment);
    this.last = left;
    // To the next whole second, so that the clock neither drifts nor skips.
    this.timer = setTimeout(() => this.tick(), ((this.until - Date.now() - 1) % 1000) + 1);
  }

  say(seconds) {
    const { minutes, minute, seconds: few } = this.dataset;
    if (seconds === 60) this.status.textContent = minute;
    else if (seconds > 60) this.status.textContent = minutes.replace("{n}", seconds / 60);
    else this.status.textContent = few.replace("{n}", seconds);
  }

  finish() {
    this.dataset.phase = "over";
    this.querySelector("[data-part='running']").hidden = true;
    const over = this.querySelector("[data-part='over']");
    over.hidden = false;
    if (this.last !== Infinity) this.status.textContent = over.textContent.trim();
    this.dispatchEvent(new CustomEvent("count-down:over", { bubbles: true }));
  }
}
customElements.define("count-down", CountDown);
