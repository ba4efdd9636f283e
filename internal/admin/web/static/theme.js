// Puts the chosen colours in force before anything is drawn.
"use strict";
try {
  const theme = localStorage.getItem("weir-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // A browser that keeps nothing has the colours of its system.
}
