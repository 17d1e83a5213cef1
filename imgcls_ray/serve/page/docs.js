// Shows the service's own description of its API.

// Swagger UI has a dark dress and leaves it to the page to ask for it.
const dark = matchMedia("(prefers-color-scheme: dark)");
const dress = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", dress);
dress();

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  // Would be asked of swagger.io.
  validatorUrl: null,
  requestInterceptor: (request) => {
    // The key that was given on the page before, in this tab.
    const key = sessionStorage.getItem("imgcls-api-key");
    if (key) request.headers.authorization = `Bearer ${key}`;
    return request;
  },
});
