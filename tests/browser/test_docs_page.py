"""`/docs` in a real browser: Swagger UI works under the Content-Security-Policy."""

from playwright.sync_api import expect


def test_shows_every_route(open_page):
    page = open_page("/docs")
    expect(page.get_by_role("heading", name="Ganymede")).to_be_visible()
    document = page.request.get("/openapi.json").json()
    operations = sum(len(methods) for methods in document["paths"].values())
    expect(page.locator(".opblock")).to_have_count(operations)


def test_tries_a_route_out(open_page):
    page = open_page("/docs")
    operation = page.locator("#operations-models-models_v1_models_get")
    operation.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table")).to_contain_text("stylegan2-flowers")
