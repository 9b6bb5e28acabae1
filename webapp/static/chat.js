// The chat: shows answers as they are written, and sends by Enter.
//
// Without this file the page still works: forms are posted, and a page with a running answer reloads itself.
(() => {
  const POLL_MS = 2000;
  const PATIENCE_S = 10;
  const NEAR_PX = 160;

  const nearTheEnd = () => innerHeight + scrollY >= document.documentElement.scrollHeight - NEAR_PX;
  const toTheEnd = () => scrollTo({ top: document.documentElement.scrollHeight });
  let following = true;
  addEventListener("scroll", () => { following = nearTheEnd(); }, { passive: true });
  const follow = () => { if (following) toTheEnd(); };

  // -- an answer that is being written ------------------------------------------------------------------------------
  class Answer {
    constructor(article) {
      this.article = article;
      this.state = article.querySelector("[data-state]");
      this.text = article.querySelector("[data-text]").appendChild(document.createTextNode(""));
      this.sentAt = performance.now() - 1000 * Number(article.dataset.age);
      this.waiting = "waiting" in article.dataset;
      this.clock = setInterval(() => this.tick(), 1000);
      this.connect();
    }

    get gone() { return !this.article.isConnected; }

    connect() {
      // A new connection begins with the stream's beginning; one that the browser takes up again goes on where it was.
      let fresh = true;
      const source = this.source = new EventSource(this.article.dataset.events);
      const show = (text, anew) => {
        if (anew || fresh) this.text.data = "";
        fresh = false;
        this.text.appendData(text);
        if (this.waiting) {
          this.waiting = false;
          this.state.textContent = "Answering…";
        }
        follow();
      };
      source.addEventListener("piece", (event) => show(JSON.parse(event.data), false));
      source.addEventListener("reset", (event) => show(JSON.parse(event.data), true));
      source.addEventListener("end", () => this.end());
      source.addEventListener("error", () => {
        // The browser retries by itself unless the answer was an error; then ask in another way until it works again.
        if (source.readyState === EventSource.CLOSED && !this.gone) setTimeout(() => this.poll(), POLL_MS);
      });
    }

    async poll() {
      if (this.gone) return this.close();
      try {
        const answer = await fetch(this.article.dataset.address, { headers: { "HX-Request": "true" }, cache: "no-store" });
        if (answer.status === 401 || answer.status === 404) {
          keep();
          return location.reload();
        }
        const status = answer.headers.get("X-Request-Status");
        if (answer.ok && status !== "queued" && status !== "processing") return this.end();
        if (answer.ok) return this.connect();
      } catch {
        // The server is away: it is asked again below.
      }
      setTimeout(() => this.poll(), POLL_MS);
    }

    tick() {
      if (this.gone) return this.close();
      const waited = Math.floor((performance.now() - this.sentAt) / 1000);
      if (this.waiting && waited >= PATIENCE_S) this.state.textContent = `Still waiting; ${waited} s`;
    }

    stopping() {
      this.waiting = false;
      this.state.textContent = "Stopping…";
    }

    close() {
      clearInterval(this.clock);
      this.source.close();
    }

    end() {
      this.close();
      htmx.trigger(this.article, "refresh");
    }
  }

  const answers = new WeakMap();
  const watch = () => {
    for (const article of document.querySelectorAll("[data-events]")) {
      if (!answers.has(article)) answers.set(article, new Answer(article));
    }
  };

  // -- the box ------------------------------------------------------------------------------------------------------
  let sent = "";
  const box = () => document.getElementById("text");

  const sends = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing;
  document.addEventListener("keydown", (event) => {
    if (event.target.id !== "text" || !sends(event)) return;
    event.preventDefault();
    if (event.target.value.trim()) event.target.form.requestSubmit();
  });

  // -- pictures -----------------------------------------------------------------------------------------------------
  const field = () => document.getElementById("pictures");

  const complain = (text) => {
    const notice = document.createElement("p");
    notice.className = "notice bad";
    notice.textContent = text;
    document.getElementById("notices").replaceChildren(notice);
  };

  // What is chosen next comes on top of what is there. What the server would not take is left out, and said.
  let chosen = [];
  const choose = (files) => {
    const { max, maxBytes } = field().dataset;
    const types = field().accept.split(",");
    const megabytes = Math.round(maxBytes / 1048576);
    document.getElementById("notices").replaceChildren();
    for (const file of files) {
      if (!types.includes(file.type)) complain(`${file.name}: this is not a picture. PNG, JPEG, GIF and WebP are taken.`);
      else if (file.size > maxBytes) complain(`${file.name}: the picture is too large: at most ${megabytes} MB are taken.`);
      else if (chosen.length >= max) complain(`At most ${max} pictures fit into one message.`);
      else chosen.push(file);
    }
    show();
  };

  const show = () => {
    const held = new DataTransfer();
    for (const file of chosen) held.items.add(file);
    field().files = held.files;
    const list = document.getElementById("chosen");
    list.hidden = !chosen.length;
    list.replaceChildren(...chosen.map((file) => {
      const line = document.createElement("li");
      const name = document.createElement("span");
      name.textContent = file.name;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "secondary outline slim";
      button.setAttribute("aria-label", `Remove ${file.name}`);
      button.textContent = "×";
      button.addEventListener("click", () => {
        chosen = chosen.filter((other) => other !== file);
        show();
        (list.querySelector("button") ?? field()).focus();
      });
      line.append(name, button);
      return line;
    }));
  };

  document.addEventListener("change", (event) => {
    if (event.target.id === "pictures") choose([...event.target.files]);
  });

  document.addEventListener("paste", (event) => {
    if (event.target.id !== "text" || !event.clipboardData.files.length) return;
    event.preventDefault();
    choose([...event.clipboardData.files]);
  });

  document.addEventListener("dragover", (event) => {
    if (field() && event.dataTransfer.types.includes("Files")) event.preventDefault();
  });

  document.addEventListener("drop", (event) => {
    if (!field() || !event.dataTransfer.files.length) return;
    event.preventDefault();
    choose([...event.dataTransfer.files]);
  });

  // -- sending ------------------------------------------------------------------------------------------------------
  let chosenThen = [];
  document.addEventListener("htmx:before:request", (event) => {
    const source = event.detail.ctx.sourceElement;
    if (source.id === "composer") {
      sent = box().value;
      chosenThen = chosen;
    }
    if (source.matches("[data-stop]")) {
      const button = source.querySelector("button");
      // A button that is switched off loses the focus, which would begin again at the top of the page.
      if (button === document.activeElement) box().focus({ preventScroll: true });
      button.disabled = true;
      answers.get(source.closest("[data-events]"))?.stopping();
    }
  });

  document.addEventListener("htmx:after:request", (event) => {
    const { sourceElement, response } = event.detail.ctx;
    // What a limit refused is stored and shown in the conversation, so it need not stay in the box.
    const taken = response.status < 400 || response.status === 429;
    if (sourceElement.id === "composer" && taken) {
      if (box().value === sent) box().value = "";
      chosen = chosen.filter((file) => !chosenThen.includes(file));
      show();
    }
    // What waits for cheaper hours has no stream whose end would bring the page up to date.
    if (sourceElement.matches("[data-stop]") && !sourceElement.closest("[data-events]")) {
      htmx.trigger(sourceElement.closest(".exchange"), "refresh");
    }
  });

  document.addEventListener("htmx:after:swap", (event) => {
    const source = event.detail.ctx.sourceElement;
    if (source.matches?.("#composer, .examples")) {
      following = true;
      // What came back may be a notice above the box.
      if (document.querySelector(".exchange")) document.getElementById("empty")?.remove();
      box().focus({ preventScroll: true });
    }
    watch();
    follow();
  });

  document.addEventListener("htmx:error", (event) => {
    const source = event.detail.ctx?.sourceElement;
    if (source?.matches?.("[data-stop]")) source.querySelector("button").disabled = false;
    if (!source?.matches?.("#composer, .examples")) return;
    complain("The server could not be reached. Your message is still here: send it again in a moment.");
  });

  // -- what was typed, over a reload --------------------------------------------------------------------------------
  const DRAFT = "switchhook.draft";
  const owner = () => document.getElementById("composer").dataset.owner;
  const keep = () => sessionStorage.setItem(DRAFT, JSON.stringify({ owner: owner(), text: box().value }));

  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("[data-reload]");
    if (!link || !box()) return;
    keep();
    // A link to the very page that is shown might only scroll.
    if (link.pathname === location.pathname && link.search === location.search) {
      event.preventDefault();
      location.reload();
    }
  });

  const restore = () => {
    const draft = JSON.parse(sessionStorage.getItem(DRAFT) ?? "null");
    sessionStorage.removeItem(DRAFT);
    // Somebody else may have signed in here meanwhile.
    if (draft?.owner === owner() && !box().value) box().value = draft.text;
  };

  document.addEventListener("DOMContentLoaded", () => {
    restore();
    watch();
    if (!location.hash && !new URLSearchParams(location.search).has("before")) toTheEnd();
  });
})();
