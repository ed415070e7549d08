// <copy-button>: copies the text of the <code> beside it, and says so. Hidden without JavaScript.

class CopyButton extends HTMLElement {
  connectedCallback() {
    this.querySelector("button")?.addEventListener("click", () => this.copy());
  }

  async copy() {
    const code = this.parentElement.querySelector("code");
    const label = this.querySelector("[data-part='label']");
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      // No permission, or not a secure page: select it, so that the person can copy it.
      getSelection().selectAllChildren(code);
      return;
    }
    this.before ??= label.textContent;
    label.textContent = this.dataset.done;
    this.querySelector("[data-part='status']").textContent = this.dataset.done;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      label.textContent = this.before;
      this.querySelector("[data-part='status']").textContent = "";
    }, 2000);
  }
}
customElements.define("copy-button", CopyButton);
