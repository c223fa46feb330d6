// The print button of a sheet: only its section is printed (style.css). Without script the browser's own command does the same.
"use strict";
const button = document.getElementById("print");
if (button) {
  button.hidden = false;
  button.addEventListener("click", () => print());
}
