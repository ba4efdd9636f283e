// Copies what an element shows. Without it, or where the browser does not let it, the text
// can be selected.
"use strict";
for (const button of document.querySelectorAll("[data-copy]")) {
  const from = document.getElementById(button.dataset.copy);
  const said = document.querySelector("[data-copied]");
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(from.textContent);
      said.textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(from);
      said.textContent = "Selected: copy it with Ctrl+C or ⌘C.";
    }
  });
}
