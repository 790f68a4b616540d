/** Shows the OpenAPI document of this server with Swagger UI. */

SwaggerUIBundle({
  // Relative to the page, so that it also works behind a proxy that adds a prefix.
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  // Otherwise a badge is fetched from another host.
  validatorUrl: null,
});
