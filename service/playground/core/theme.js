/** Applies the stored theme before the page is drawn. A classic script, because modules run late. */

(() => {
  const STORAGE = "ganymede.theme";
  let theme = "";
  try {
    theme = localStorage.getItem(STORAGE) ?? "";
  } catch {
    // Without storage, the theme follows the system.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;

  /** Switches between light and dark, and returns the new theme. */
  window.toggleTheme = () => {
    const root = document.documentElement;
    const dark = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    const current = root.dataset.theme || dark;
    root.dataset.theme = current === "dark" ? "light" : "dark";
    try {
      localStorage.setItem(STORAGE, root.dataset.theme);
    } catch {
      // The choice lasts until the page is closed.
    }
    return root.dataset.theme;
  };
})();
