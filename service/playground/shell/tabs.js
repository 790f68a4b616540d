/** The tabs of the panels, as the ARIA pattern describes them: arrow keys move between them. */

import { h } from "../core/dom.js";

/** Fills `tablist` with a tab for each panel; `onChoose(panel)` is called for the chosen one. */
export function showTabs(tablist, panels, current, onChoose) {
  const tabs = panels.map((panel) => {
    const selected = panel === current;
    return h(
      "button",
      {
        role: "tab",
        id: `tab-${panel.id}`,
        class: "tab",
        "aria-selected": String(selected),
        "aria-controls": "panel",
        tabIndex: selected ? 0 : -1,
        onclick: () => onChoose(panel),
      },
      panel.title,
    );
  });
  const hadFocus = tablist.contains(document.activeElement);
  tablist.replaceChildren(...tabs);
  tablist.hidden = panels.length < 2;
  if (hadFocus) tabs[panels.indexOf(current)]?.focus();
  tablist.onkeydown = (event) => {
    const at = tabs.indexOf(document.activeElement);
    const last = tabs.length - 1;
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    onChoose(panels[(next + tabs.length) % tabs.length]);
  };
}
