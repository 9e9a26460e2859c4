// Runs before the first paint, so that a chosen theme does not appear after the other one.
try {
    const theme = localStorage.getItem("dj-flux2.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
    // Storage may be forbidden; then the system's theme is shown.
}
