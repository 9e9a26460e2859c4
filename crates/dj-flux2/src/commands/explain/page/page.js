// A map of attention that is pointed at, or chosen with the keyboard, is shown large.
const large = document.getElementById("large");
for (const map of document.querySelectorAll("button.map")) {
  const show = () => {
    large.querySelector(".shot").replaceWith(map.querySelector(".shot").cloneNode(true));
    document.getElementById("large-caption").textContent = map.dataset.caption;
  };
  for (const event of ["pointerenter", "focus", "click"]) map.addEventListener(event, show);
}
