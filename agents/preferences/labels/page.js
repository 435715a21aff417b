// Keys, and a guard that takes one answer for one pair that somebody had time to see.
(() => {
  const KEYS = {
    ArrowLeft: "left", a: "left", ArrowRight: "right", b: "right", t: "tie", s: "skip", u: "undo",
  };
  const UNSEEN = 250;      // milliseconds: the second press of a double one
  const NO_ANSWER = 5000;  // milliseconds after which a key may be pressed again: a server that stopped
  let shown = 0, sent = -Infinity, version = null;

  const view = () => document.getElementById("view");

  // A new pair, or the same one after an error, is on the screen.
  new MutationObserver(() => {
    const now = view();
    if (!now || now.dataset.shown === version) return;
    version = now.dataset.shown;
    shown = performance.now();
    sent = -Infinity;
    const address = new URL(location);
    if (address.searchParams.get("labeller") !== now.dataset.labeller) {
      address.searchParams.set("labeller", now.dataset.labeller);
      history.replaceState(null, "", address);  // so that a reload goes on
    }
    scrollTo(0, 0);
  }).observe(document, { childList: true, subtree: true, attributeFilter: ["data-shown"] });

  document.addEventListener("click", (event) => {
    if (!event.target.closest?.(".choice")) return;
    const now = performance.now();
    if (now - shown < UNSEEN || now - sent < NO_ANSWER) {
      event.stopImmediatePropagation();
      event.preventDefault();
    } else {
      sent = now;
    }
  }, true);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || !view()) return;
    if (event.target.closest?.("input, textarea, select, [contenteditable]")) return;
    const choice = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
    if (!choice || (view().className === "finished" && choice !== "undo")) return;
    event.preventDefault();
    document.getElementById(choice)?.click();
  });
})();
