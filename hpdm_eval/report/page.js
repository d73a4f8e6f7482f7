// Samples play by themselves unless the reader prefers less motion; one button stops and starts all of them.
const videos = [...document.querySelectorAll("video")];
const button = document.getElementById("pause");
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
function apply() {
  for (const video of videos) {
    if (playing) video.play().catch(() => {}); else video.pause();
  }
  button.textContent = playing ? "Pause all" : "Play all";
}
button.hidden = false;
button.addEventListener("click", () => { playing = !playing; apply(); });
for (const video of videos) {
  video.addEventListener("click", () => { if (video.paused) video.play(); else video.pause(); });
}
apply();
