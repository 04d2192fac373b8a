// Show the groups of the chosen task whose mean score lies in the chosen range.
const task = document.getElementById("task");
const lowest = document.getElementById("lowest");
const highest = document.getElementById("highest");

function filter() {
  let shown = 0;
  for (const group of document.querySelectorAll("details.group")) {
    const score = Number(group.dataset.score);
    const wanted =
      (task.selectedIndex === 0 || group.dataset.task === task.value) &&
      (lowest.value === "" || score >= Number(lowest.value)) &&
      (highest.value === "" || score <= Number(highest.value));
    group.hidden = !wanted;
    shown += wanted;
  }
  document.getElementById("shown").textContent = shown + " shown";
}

for (const box of [task, lowest, highest]) box.addEventListener("input", filter);
filter();
