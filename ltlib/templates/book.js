// Dark or light, and the search over all headings: `headings` in search.js, lists of address, page and heading.
(() => {
  const root = document.documentElement;

  // a browser may refuse localStorage to files; the choice then lasts as long as the page
  const remembered = (scheme) => {
    try {
      if (scheme) localStorage.setItem("scheme", scheme);
      return localStorage.getItem("scheme");
    } catch {
      return null;
    }
  };
  if (remembered()) root.dataset.scheme = remembered();

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.querySelector("#scheme");
    button.hidden = false;
    button.addEventListener("click", () => {
      const now = root.dataset.scheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
      root.dataset.scheme = now === "dark" ? "light" : "dark";
      remembered(root.dataset.scheme);
    });

    const contents = document.querySelector(".contents details");
    if (contents) contents.open = matchMedia("(min-width: 64rem)").matches;

    const form = document.querySelector("form");
    const [input, status, list] = form.children;
    form.hidden = false;
    const link = ([address, page, heading]) => {
      const item = document.createElement("li");
      const a = item.appendChild(document.createElement("a"));
      a.href = address;
      a.append(heading);
      a.appendChild(document.createElement("small")).append(page);
      return item;
    };
    const search = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const found = headings.filter(([, page, heading]) => words.every((word) => `${page} ${heading}`.toLowerCase().includes(word)));
      list.replaceChildren(...(words.length ? found.map(link) : []));
      status.textContent = words.length ? `${found.length} found` : "";
    };
    const clear = () => {
      input.value = "";
      search();
    };
    input.addEventListener("input", search);
    list.addEventListener("click", clear);
    form.addEventListener("keydown", (event) => event.key === "Escape" && clear());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      list.querySelector("a")?.click();
    });
    search(); // a browser that goes back may have kept the words
  });
})();
