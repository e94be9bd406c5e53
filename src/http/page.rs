//! `GET /`: the page for people. The dashboard takes its place.

use poem::Response;

const INDEX: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>runner-manager</title>
<style>body { font-family: system-ui, sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem }</style>
</head>
<body>
<main>
<h1>runner-manager</h1>
<p>It runs fleets of self-hosted GitHub Actions runners.</p>
<ul>
<li><a href="/docs">Admin API</a></li>
<li><a href="/metrics">Metrics</a></li>
<li><a href="/_ready">Readiness</a></li>
</ul>
</main>
</body>
</html>
"#;

/// The page.
pub(super) fn index() -> Response {
    html(INDEX)
}

/// Text as a page.
pub(super) fn html(text: impl Into<poem::Body>) -> Response {
    Response::builder().content_type("text/html; charset=utf-8").body(text)
}
