// A click on a frame or a segment copies its time. The page works without this script.
document.addEventListener("click", async (event) => {
  const target = event.target.closest("[data-time]");
  if (!target) return;
  const time = target.dataset.time;
  try {
    await navigator.clipboard.writeText(time);
  } catch {
    const area = document.createElement("textarea");
    area.value = time;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const note = document.getElementById("copied");
  note.textContent = `copied ${time}`;
  note.classList.add("shown");
  setTimeout(() => note.classList.remove("shown"), 1500);
});
