// <confirm-dialog>: turns a question that stands in the page into a modal <dialog> behind a button.

class ConfirmDialog extends HTMLElement {
  connectedCallback() {
    const dialog = this.querySelector("dialog");
    const open = this.querySelector("[data-part='open']");
    const close = this.querySelector("[data-part='close']");
    if (!dialog || !open) return;
    dialog.close();
    open.hidden = false;
    if (close) {
      close.hidden = false;
      close.addEventListener("click", () => dialog.close());
    }
    open.addEventListener("click", () => {
      dialog.showModal();
      // The safe answer has the focus.
      close?.focus();
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
  }
}
customElements.define("confirm-dialog", ConfirmDialog);
