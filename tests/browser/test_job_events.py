"""The events of a job in a real browser, by the standard interface for them."""

FOLLOW = """async () => {
  const body = JSON.stringify({ model: "gan-mnist", count: 400, shard_size: 100 });
  const headers = { "content-type": "application/json" };
  const response = await fetch("/v1/jobs", { method: "POST", headers, body });
  const { id } = await response.json();
  const seen = [];
  const events = new EventSource(`/v1/jobs/${id}/events`);
  await new Promise((resolve, reject) => {
    for (const kind of ["state", "progress", "end"]) {
      events.addEventListener(kind, ({ data, lastEventId }) => {
        seen.push([kind, JSON.parse(data).images, lastEventId]);
      });
    }
    events.addEventListener("end", resolve);
    events.addEventListener("error", () => {
      if (events.readyState === EventSource.CLOSED) reject(new Error("closed"));
    });
  });
  // Not closed here: the browser connects again, and is told that there is nothing more.
  await new Promise((resolve) => {
    const timer = setInterval(() => {
      if (events.readyState !== EventSource.CLOSED) return;
      clearInterval(timer);
      resolve();
    }, 50);
  });
  return seen;
}"""


def test_browser_follows_a_job_to_its_end_and_does_not_connect_again(open_page):
    page = open_page("/docs")
    seen = page.evaluate(FOLLOW)
    assert [kind for kind, _, _ in seen].count("end") == 1
    assert seen[-1][:2] == ["end", 400]
    images = [count for _, count, _ in seen]
    assert images == sorted(images)
    assert seen[-1][2] == "done.400.0.0"
