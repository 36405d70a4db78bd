// A convenience only: without this script every answer is on the page, in the same order.
(function () {
  var groups = Array.prototype.slice.call(document.querySelectorAll("#answers .group"));
  if (!groups.length) return;
  var bar = document.createElement("div");
  bar.className = "filter";
  bar.setAttribute("role", "search");
  var box = document.createElement("input");
  box.type = "search";
  box.placeholder = "Search the answers";
  box.setAttribute("aria-label", "Search the answers");
  var status = document.createElement("span");
  status.setAttribute("aria-live", "polite");
  bar.append(box, status);
  groups[0].before(bar);
  box.addEventListener("input", function () {
    var wanted = box.value.trim().toLowerCase(), found = 0;
    groups.forEach(function (group) {
      var here = 0;
      group.querySelectorAll(".answer").forEach(function (card) {
        var hit = card.textContent.toLowerCase().indexOf(wanted) >= 0;
        card.hidden = !hit;
        here += hit;
      });
      group.hidden = !here;
      group.querySelectorAll("details").forEach(function (d) { if (wanted) d.open = true; });
      found += here;
    });
    status.textContent = wanted ? found + (found === 1 ? " answer" : " answers") : "";
  });
})();
