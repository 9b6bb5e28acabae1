// The simulator's phone: shows its newest message, and empties the field when a text has gone out.
(() => {
  const toTheEnd = () => {
    const screen = document.getElementById("screen");
    if (screen) screen.scrollTop = screen.scrollHeight;
  };

  document.addEventListener("DOMContentLoaded", toTheEnd);
  document.addEventListener("htmx:after:swap", toTheEnd);
  document.addEventListener("htmx:after:request", (event) => {
    const { sourceElement, response } = event.detail.ctx;
    if (response.status >= 400 || !sourceElement.closest(".phone-input")) return;
    document.getElementById("notices").replaceChildren();
    if (sourceElement.id === "phone-form") {
      const field = document.getElementById("sms");
      field.value = "";
      field.focus();
    }
  });
})();
